"""Flower's PyTorch quickstart with secure aggregation."""
