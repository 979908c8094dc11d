"""A training run: its rounds, checkpoints, records and display."""
