"""The page docs/experiments.md: its sections and figures, beside the results that they are made from."""
