"""MNIST by its 539 real writers: a client each, under realistic dropouts, and a personal model for each."""

from fl.experiments.writers.arms import build
from fl.experiments.writers.beside import beside

__all__ = ["beside", "build"]
