"""Tasks other than classification: data, models, losses and metrics as a user writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import nn

from fl.data import Dataset


def diabetes(data_dir: Path | None) -> Dataset:
    """Return a table with one number for each row, as float64 arrays (N,)."""
    x, y = load_diabetes(return_X_y=True)
    x, y = 20 * x, (y - 150) / 75
    return Dataset("diabetes", x[:350], y[:350], x[350:], y[350:])


def untested(data_dir: Path | None) -> Dataset:
    x, y = load_diabetes(return_X_y=True)
    return Dataset("untested", 20 * x, (y - 150) / 75)


def several_labels(data_dir: Path | None) -> Dataset:
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    return Dataset("several", x[:240], x[:240, :4] > 0.5, x[240:], x[240:, :4] > 0.5)


def cancer(data_dir: Path | None) -> Dataset:
    """Return classes 0 and 1 for a model with one logit."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return Dataset("cancer", x[:450], y[:450], x[450:], y[450:], num_classes=1)


def sequences(data_dir: Path | None) -> Dataset:
    """Return token ids, and a class for each token except the padding."""
    x = torch.randint(0, 20, (200, 8), generator=torch.Generator().manual_seed(0))
    y = x % 3
    y[::2, -3:] = -100
    return Dataset("sequences", x[:160].int(), y[:160], x[160:].int(), y[160:], num_classes=3)


def pixels(data_dir: Path | None) -> Dataset:
    """Return an image and a class for each pixel."""
    x = torch.randn(120, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return Dataset("pixels", x[:90], (x[:90, 0] > 0).long(), x[90:], (x[90:, 0] > 0).long(), num_classes=2)


class Tagger(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(20, 8), nn.Linear(8, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(self.embedding(tokens)).transpose(1, 2)
        return output


def tagger(example_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Tagger(num_classes)


def segmenter(example_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, num_classes, 1))


def signed(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return a loss that may be negative."""
    return nn.functional.mse_loss(output[:, 0], target) - 10


def bias(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output[:, 0] - target).mean()


def recall(output: torch.Tensor, target: torch.Tensor) -> Any:
    positive = target > 0.5
    return ((output > 0) & positive).sum(), positive.sum()


def never(output: torch.Tensor, target: torch.Tensor) -> float:
    return float("nan")
