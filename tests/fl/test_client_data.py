"""Clients' examples in all forms that occur in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from fl.data.client_data import ClientSources, DealtOut
from fl.errors import DataError
from tests.fl.runs import tiny_dataset

INPUTS = torch.arange(12.0).reshape(6, 2)
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])
PAIR = (INPUTS, TARGETS)


class Read(Dataset[Any]):
    """Pairs of a tensor and a number that count how often they are read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.reads += 1
        return INPUTS[index], int(TARGETS[index])


@pytest.mark.parametrize(
    "source",
    [
        PAIR,
        [INPUTS.double(), TARGETS.int()],
        (INPUTS.numpy().astype(np.float64)[::-1][::-1], TARGETS.numpy().astype(np.uint8)),
        TensorDataset(INPUTS, TARGETS),
        Subset(TensorDataset(INPUTS.flip(0), TARGETS.flip(0)), [5, 4, 3, 2, 1, 0]),
        Subset(Read(), range(6)),
        Read(),
        DataLoader(Read(), batch_size=4, shuffle=True),
        [(INPUTS[index].numpy(), TARGETS[index]) for index in range(6)],
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_form_gives_the_same_examples(source: Any) -> None:
    data = ClientSources([source, (INPUTS + 1, TARGETS)], test=source)
    inputs, targets = data.examples(0)
    assert inputs.dtype == torch.float32
    assert targets.dtype == torch.int64
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(targets, TARGETS)
    assert torch.equal(data.dataset.test_images, INPUTS)
    assert data.dataset.image_shape == (2,)
    assert data.dataset.num_classes == 3


def test_clients_have_their_own_places_in_the_pooled_table() -> None:
    data = ClientSources([PAIR, (INPUTS[:2] + 1, TARGETS[:2]), Read()], PAIR)
    assert data.num_clients == 3
    inputs, targets = data.pooled()
    assert len(inputs) == len(targets) == 14
    for client_id in range(3):
        places = data.places(client_id)
        assert torch.equal(inputs[places], data.examples(client_id)[0])
        assert torch.equal(data.examples(client_id, places[1:])[0], inputs[places[1:]])
    assert data.known_targets(2, data.places(2)) is None
    assert torch.equal(data.known_targets(1, data.places(1)), TARGETS[:2])


def test_a_data_set_is_read_when_it_is_asked_for() -> None:
    source = Read()
    data = ClientSources([source, source], PAIR)
    few = source.reads
    assert few < 6
    data.examples(1)
    data.examples(1)
    assert source.reads == few + 12


def test_a_data_set_dealt_out_is_read_by_its_parts() -> None:
    dataset = tiny_dataset()
    data = DealtOut(dataset, [np.array([3, 5]), np.array([0])])
    assert data.num_clients == 2
    assert torch.equal(data.examples(0)[0], dataset.train_images[[3, 5]])
    assert torch.equal(data.known_targets(1, data.places(1)), dataset.train_labels[:1])


class Unsized:
    def __getitem__(self, index: int) -> Any:
        raise IndexError


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        ([], "clients must be a list with the examples of each client, not an empty list"),
        (PAIR[0], "clients must be a list with the examples of each client, not a Tensor"),
        (
            PAIR,
            "client 0: it must be a pair (inputs, targets), a torch Dataset with a length, or a DataLoader, not a T",
        ),
        ([PAIR, Unsized()], "client 1: it must be a pair (inputs, targets), a torch Dataset with a length, or a Data"),
        ([PAIR, "digits"], "client 1: it must be a pair"),
        (
            [PAIR, (INPUTS, TARGETS[:5])],
            "client 1: there are inputs of shape (6, 2), and targets of shape (5,): give as",
        ),
        ([PAIR, (INPUTS[:0], TARGETS[:0])], "client 1: there are no examples in it: leave it out"),
        (
            [PAIR, (INPUTS[:, :1], TARGETS)],
            "client 1: its inputs are float32 (1,) each, but those of client 0 are float",
        ),
        (
            [PAIR, (INPUTS, TARGETS.float())],
            "client 1: its targets are float32 () each, but those of client 0 are int64",
        ),
        ([PAIR, (INPUTS / 0, TARGETS)], "client 1: its inputs have a value that is not finite, in example 0"),
        ([PAIR, [INPUTS, INPUTS, INPUTS]], "client 1: each example must be a pair (input, target), not Tensor"),
        ([PAIR, [(INPUTS[0], 1), (INPUTS[0, :1], 1)]], "client 1: the examples cannot be stacked"),
        ([PAIR, [({"a": 1}, "text")]], "client 1: must be a torch tensor, or a NumPy array of numbers, not a dict"),
        (
            [PAIR, DataLoader(Read(), collate_fn=len)],
            "client 1: it is a DataLoader with a collate_fn, which is not used",
        ),
        ([PAIR, (INPUTS.to(torch.complex64), TARGETS)], "client 1: complex numbers cannot be trained on"),
    ],
)
def test_invalid_examples_are_one_sentence(clients: Sequence[Any], said: str) -> None:
    with pytest.raises(DataError) as refused:
        ClientSources(clients, PAIR)
    assert str(refused.value).startswith(said)
    assert ClientSources([PAIR, PAIR], PAIR).num_clients == 2


def test_a_wrong_example_that_is_read_later_names_its_client() -> None:
    items = [(INPUTS[0], 0), (INPUTS[1], 1), (INPUTS[2, :1], 1)]
    data = ClientSources([PAIR, items], PAIR)
    with pytest.raises(DataError, match="client 1: the examples cannot be stacked"):
        data.examples(1)
