"""Learning on PyTorch: models, local training, the server's optimizer."""
