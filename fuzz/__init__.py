"""Coverage-guided fuzzing of everything that takes bytes or messages from others; see README.md."""
