"""McMahan et al.'s MNIST: a hundred clients, ten a round; how many rounds it takes to an accuracy."""

from fl.experiments.mnist_hundred.arms import build
from fl.experiments.mnist_hundred.beside import beside
from fl.experiments.mnist_hundred.section import section

__all__ = ["beside", "build", "section"]
