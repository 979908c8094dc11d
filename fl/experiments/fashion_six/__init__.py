"""Six clients on Fashion-MNIST: each alone, all data centrally, and federated, with Adam and with SGD locally."""

from fl.experiments.fashion_six.arms import build
from fl.experiments.fashion_six.beside import beside
from fl.experiments.fashion_six.section import section

__all__ = ["beside", "build", "section"]
