"""A run: its rounds, its checkpoints, and what is shown of it."""
