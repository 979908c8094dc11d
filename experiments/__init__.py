"""The page docs/experiments.md: its sections and figures, with the results that they are made from."""
