"""Coverage-guided fuzzing of all code that takes bytes or messages from others; see README.md."""
