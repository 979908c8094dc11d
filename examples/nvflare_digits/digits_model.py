"""The model, and the sites' parts of the digits; the job and the sites share this module."""

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import nn

NUM_TEST = 360


class DigitsNet(nn.Module):
    """A network from 8 x 8 pixels to ten classes, with ``width`` hidden units."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels)


def shard(site: int, num_sites: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the training examples of one of ``num_sites`` sites, counted from 0."""
    pixels, labels = _digits()
    mine = slice(NUM_TEST + site, None, num_sites)
    return torch.from_numpy(pixels[mine]), torch.from_numpy(labels[mine])


def accuracy(model: nn.Module) -> float:
    """Return the accuracy on the examples that no site trains on."""
    pixels, labels = _digits()
    with torch.no_grad():
        predicted = model(torch.from_numpy(pixels[:NUM_TEST])).argmax(dim=1).numpy()
    return float((predicted == labels[:NUM_TEST]).mean())


def _digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (pixels[order] / 16).astype(np.float32), labels[order].astype(np.int64)
