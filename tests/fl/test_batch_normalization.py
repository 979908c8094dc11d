"""Models that normalize over a batch: their needs, and that no example is left out for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fl.errors import ConfigError
from fl.learning.settings import Local
from fl.learning.training import train

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**changes: Any) -> Local:
    return Local(**{"epochs": 1, "batch_size": 32, "learning_rate": 0.1, "momentum": 0.0, "bfloat16": "off"} | changes)


class NormalizingListener(nn.Module):
    """A model that records which images it is shown: their first pixel is their number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.batches: list[list[float]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(images[:, 0, 0, 0].tolist())
        logits: torch.Tensor = self.layers(images)
        return logits


@pytest.mark.parametrize(("num_examples", "sizes"), [(9, [4, 5]), (5, [5]), (10, [4, 4, 2]), (8, [4, 4]), (2, [2])])
def test_a_single_example_joins_the_batch_before_where_batches_are_normalized(
    num_examples: int, sizes: list[int]
) -> None:
    images = torch.randn(num_examples, 1, 2, 2)
    model = NormalizingListener()
    result = train(model, images, torch.zeros(num_examples).long(), settings(epochs=2, batch_size=4), seed=1)
    assert [len(batch) for batch in model.batches] == sizes * 2
    shown = [example for batch in model.batches for example in batch]
    for epoch in (shown[:num_examples], shown[num_examples:]):
        assert sorted(epoch) == sorted(images[:, 0, 0, 0].tolist())
    assert result.num_examples == num_examples


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "why"), [(1, 4, "there is only one"), (8, 1, "raise batch_size")]
)
def test_one_example_alone_cannot_be_normalized(num_examples: int, batch_size: int, why: str) -> None:
    images, labels = torch.randn(num_examples, 1, 2, 2), torch.zeros(num_examples).long()
    with pytest.raises(ConfigError, match=f"BatchNorm1d normalizes over a batch and needs at least 2 .*: {why}"):
        train(NormalizingListener(), images, labels, settings(batch_size=batch_size), seed=1)


def test_an_images_own_places_are_enough_to_normalize_over() -> None:
    images, labels = torch.randn(1, 1, 4, 4), torch.tensor([7])
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 10))
    assert train(model, images, labels, settings(), seed=1).num_examples == 1
