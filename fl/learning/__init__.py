"""Learning with PyTorch: models, local training, the server's optimizer."""
