"""Federated learning on PyTorch, with secure aggregation."""
