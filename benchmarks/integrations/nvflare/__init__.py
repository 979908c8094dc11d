"""NVFlare's own averages, plain and homomorphically encrypted, beside ours: figures, and what a leaking site costs."""
