"""The examples of a run's clients: parts of one data set, or one source for each client, read when a client trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate, default_convert

from fl.data.dataset import Dataset, are_classes, as_tensor, usual_type
from fl.data.partition import Indices
from fl.errors import DataError

Examples: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets with equal lengths."""


class ClientData(Protocol):
    """The training examples of all clients. Each example has a number, its place; no two clients have the same."""

    @property
    def dataset(self) -> Dataset:
        """The data set that a model must fit: its test examples, and the shapes and types of all."""
        ...

    @property
    def num_clients(self) -> int:
        """The number of clients."""
        ...

    def places(self, client_id: int) -> Indices:
        """Return the places of the client's examples, in ascending order."""
        ...

    def examples(self, client_id: int, places: Indices | None = None) -> Examples:
        """Return the client's examples, or those at some of its places; DataError if they cannot be read."""
        ...

    def known_targets(self, client_id: int, places: Indices) -> torch.Tensor | None:
        """Return the targets at these places of the client; None if they would have to be read first."""
        ...

    def pooled(self) -> Examples:
        """Return the examples of all clients in one table, whose rows are the places."""
        ...


class DealtOut:
    """A data set whose training examples are dealt out: client i has those at the places ``parts[i]``."""

    def __init__(self, dataset: Dataset, parts: Sequence[Indices]) -> None:
        self.dataset = dataset
        self._parts = parts

    @property
    def num_clients(self) -> int:
        """The number of clients."""
        return len(self._parts)

    def places(self, client_id: int) -> Indices:
        """Return the places of the client's examples."""
        return self._parts[client_id]

    def examples(self, client_id: int, places: Indices | None = None) -> Examples:
        """Return copies of the client's examples."""
        chosen = torch.from_numpy(self.places(client_id) if places is None else places)
        return self.dataset.train_images[chosen], self.dataset.train_labels[chosen]

    def known_targets(self, client_id: int, places: Indices) -> torch.Tensor | None:
        """Return the targets."""
        return self.dataset.train_labels[torch.from_numpy(places)]

    def pooled(self) -> Examples:
        """Return all examples, without a copy."""
        return self.dataset.train_images, self.dataset.train_labels


_NO_SOURCES = (str, bytes, dict, torch.Tensor, np.ndarray)


class _Source(Protocol):
    """Examples that can be chosen by their numbers 0..len-1."""

    def __len__(self) -> int: ...

    def choose(self, numbers: Indices) -> Examples: ...

    def targets(self, numbers: Indices) -> torch.Tensor | None: ...


class _Tables:
    """Inputs and targets that are in memory."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self._inputs, self._targets = _usual(inputs, targets)
        if self._inputs.shape[:1] != self._targets.shape[:1] or not self._inputs.ndim:
            raise DataError(
                f"there are inputs of shape {tuple(self._inputs.shape)}, and targets of shape "
                f"{tuple(self._targets.shape)}: give as many targets as inputs"
            )

    def __len__(self) -> int:
        return len(self._inputs)

    def choose(self, numbers: Indices) -> Examples:
        chosen = torch.from_numpy(numbers)
        return self._inputs[chosen], self._targets[chosen]

    def targets(self, numbers: Indices) -> torch.Tensor | None:
        return self._targets[torch.from_numpy(numbers)]


class _Chosen:
    """A torch `Subset`."""

    def __init__(self, source: _Source, numbers: Sequence[int]) -> None:
        self._source = source
        self._numbers = np.asarray(numbers, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def choose(self, numbers: Indices) -> Examples:
        return self._source.choose(self._numbers[numbers])

    def targets(self, numbers: Indices) -> torch.Tensor | None:
        return self._source.targets(self._numbers[numbers])


class _Items:
    """A torch `Dataset`, or any sequence of pairs, read item by item each time: its transforms may be random."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def choose(self, numbers: Indices) -> Examples:
        items = [self._items[number] for number in numbers.tolist()]
        for item in items:
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise DataError(f"each example must be a pair (input, target), not {type(item).__name__}")
        try:
            inputs, targets = default_collate([tuple(item) for item in items])
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"the examples cannot be stacked ({' '.join(str(error).split())}): give tensors or arrays of one shape"
            ) from None
        return _usual(inputs, targets)

    def targets(self, numbers: Indices) -> torch.Tensor | None:
        return None


class ClientSources:
    """One source of examples for each client.

    A source is a pair (inputs, targets) of tensors or NumPy arrays; a torch `Dataset` of such pairs; or a `DataLoader`,
    of which the data set is taken, and neither the batch size nor the order. Floats become float32, other numbers
    int64 (inputs of uint8 stay so). A data set is read when its client trains, once a round, so that random transforms
    draw anew.

    Args:
        clients: a source for each client.
        test: a source of test examples; None: there are none.

    Raises:
        DataError: a source is of another kind or empty, or its examples do not fit those of the first client.
    """

    def __init__(self, clients: Sequence[Any], test: Any = None) -> None:
        if not isinstance(clients, Sequence) or isinstance(clients, str) or not clients:
            raise DataError(f"clients must be a list with the examples of each client, not {_kind(clients)}")
        self._sources = []
        for client_id, value in enumerate(clients):
            with _named(f"client {client_id}"):
                self._sources.append(_source(value))
        self._starts = np.cumsum([0, *map(len, self._sources)])
        self._first = self._read(0, self.places(0)[:2])
        # A few of each are read now, so that a wrong client is found before the training.
        for client_id in range(1, len(self._sources)):
            self.examples(client_id, self.places(client_id)[:2])
        self.dataset = self._described(test)

    def _described(self, test: Any) -> Dataset:
        inputs, targets = self._first
        found = inputs[:0], targets[:0]
        if test is not None:
            with _named("test"):
                found = examples_of(test)
                _check_like(self._first, found)
        return Dataset("clients", inputs, targets, *found, num_classes=self._num_outputs(found[1]))

    def _num_outputs(self, test_targets: torch.Tensor) -> int:
        """Return the number of classes, as far as labels are known; 0 for other targets, of which `Dataset` knows."""
        if not are_classes(test_targets):
            return 0
        everywhere = range(self.num_clients)
        known = [self.known_targets(client_id, self.places(client_id)) for client_id in everywhere]
        labels = torch.cat([self._first[1], test_targets, *(one for one in known if one is not None)])
        # Negative numbers are no classes.
        return max(2, 1 + int(labels.max())) if labels.min() >= 0 else 1

    @property
    def num_clients(self) -> int:
        """The number of clients."""
        return len(self._sources)

    def places(self, client_id: int) -> Indices:
        """Return the places of the client's examples, which follow those of the client before."""
        return np.arange(self._starts[client_id], self._starts[client_id + 1])

    def examples(self, client_id: int, places: Indices | None = None) -> Examples:
        """Read the client's examples; DataError if they cannot be read, or do not fit those of the first client."""
        chosen = self.places(client_id) if places is None else places
        found = self._read(client_id, chosen)
        with _named(f"client {client_id}"):
            _check_like(self._first, found)
        return found

    def _read(self, client_id: int, places: Indices) -> Examples:
        with _named(f"client {client_id}"):
            return self._sources[client_id].choose(places - self._starts[client_id])

    def known_targets(self, client_id: int, places: Indices) -> torch.Tensor | None:
        """Return the targets if they are in memory."""
        return self._sources[client_id].targets(places - self._starts[client_id])

    def pooled(self) -> Examples:
        """Read all examples."""
        inputs, targets = zip(*map(self.examples, range(self.num_clients)), strict=True)
        return torch.cat(inputs), torch.cat(targets)


def examples_of(value: Any) -> Examples:
    """Return all examples of one source, as `ClientSources` takes it."""
    source = _source(value)
    return source.choose(np.arange(len(source)))


def _source(value: Any) -> _Source:
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_array, value)):
        source: _Source = _Tables(*value)
    elif isinstance(value, DataLoader):
        if value.collate_fn not in (default_collate, default_convert):
            raise DataError(
                "it is a DataLoader with a collate_fn, which is not used here: give a data set whose examples are "
                "pairs of one shape"
            )
        source = _source(value.dataset)
    elif type(value) is TensorDataset and len(value.tensors) == 2:
        source = _Tables(*value.tensors)
    elif type(value) is Subset:
        source = _Chosen(_source(value.dataset), value.indices)
    elif hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, _NO_SOURCES):
        source = _Items(value)
    else:
        raise DataError(
            f"it must be a pair (inputs, targets), a torch Dataset with a length, or a DataLoader, not {_kind(value)}"
        )
    if not len(source):
        raise DataError("there are no examples in it: leave it out")
    return source


def _usual(inputs: Any, targets: Any) -> Examples:
    """Return both in the types that a `Dataset` has; DataError for what is no real numbers."""
    tensors = as_tensor(inputs).detach(), as_tensor(targets).detach()
    if any(tensor.is_complex() for tensor in tensors):
        raise DataError("complex numbers cannot be trained on")
    return usual_type(tensors[0], keeps_bytes=True), usual_type(tensors[1], keeps_bytes=False)


@contextmanager
def _named(whose: str) -> Iterator[None]:
    """Say whose data an error is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{whose}: {error}") from None


def _check_like(first: Examples, found: Examples) -> None:
    """Raise DataError if examples are not finite, or differ in shape or type from the first client's."""
    for what, one, other in zip(("inputs", "targets"), first, found, strict=True):
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            raise DataError(f"its {what} are {_shown(other)} each, but those of client 0 are {_shown(one)}")
        if not torch.isfinite(other).all():
            at = int((~torch.isfinite(other.reshape(len(other), -1))).any(dim=1).nonzero()[0])
            raise DataError(f"its {what} have a value that is not finite, in example {at}")


def _shown(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape[1:])}"


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def _kind(value: Any) -> str:
    return "an empty list" if isinstance(value, Sequence) and not len(value) else f"a {type(value).__name__}"
