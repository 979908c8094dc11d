"""MNIST by its 539 real writers: each is a client, under realistic dropouts, and gets a personal model."""

from fl.experiments.writers.arms import build
from fl.experiments.writers.beside import beside

__all__ = ["beside", "build"]
