"""Encrypted evaluation of MNIST: ``python -m benchmarks.encrypted.compare``."""
