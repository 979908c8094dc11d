"""Partition of the training examples among clients.

Each scheme returns one sorted int64 array of example indices per client. No example is assigned twice, and each client
gets at least one. The result depends on the arguments only. `iid`, `shards` and `dirichlet` assign all examples;
`by_writer` assigns all examples of the chosen writers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fl.data.dataset import Dataset
from fl.errors import ConfigError

Indices = npt.NDArray[np.int64]

SCHEMES: tuple[str, ...] = ("iid", "shards", "dirichlet", "by-writer", "by-owner")
"""The names for `partition`; by-owner is the same as by-writer, for examples that are not handwriting."""


def partition(
    dataset: Dataset,
    scheme: str,
    num_clients: int,
    *,
    seed: int,
    alpha: float = 0.5,
    shards_per_client: int = 2,
) -> list[Indices]:
    """Split `dataset`'s training examples by the scheme named (one of SCHEMES).

    `alpha` is for `dirichlet` only, `shards_per_client` for `shards` only. Raises ConfigError for an
    unknown scheme, numbers that do not fit the data, or `by-writer` if the writers are unknown.
    """
    labels = dataset.train_labels.numpy()
    if scheme in ("shards", "dirichlet") and not dataset.has_classes:
        raise ConfigError(
            f"the partition {scheme} goes by classes, and {dataset.name} has other targets: choose iid or by-owner"
        )
    if scheme == "iid":
        return iid(labels, num_clients, seed)
    if scheme == "shards":
        return shards(labels, num_clients, seed, shards_per_client=shards_per_client)
    if scheme == "dirichlet":
        return dirichlet(labels, num_clients, seed, alpha=alpha)
    if scheme in ("by-writer", "by-owner"):
        if dataset.train_writers is None:
            raise ConfigError(
                f"{dataset.name} does not name the owner of each example: choose another partition, or mnist-writers"
            )
        return by_writer(dataset.train_writers, num_clients, seed)
    raise ConfigError(f"unknown partition {scheme!r}; known are {', '.join(SCHEMES)}")


def iid(labels: Indices, num_clients: int, seed: int) -> list[Indices]:
    """Shuffle and cut evenly: sizes differ by at most one."""
    rng = _generator(seed)
    _check_enough(len(labels), num_clients, "examples")
    return _sorted(np.array_split(rng.permutation(len(labels)), num_clients))


def shards(labels: Indices, num_clients: int, seed: int, *, shards_per_client: int = 2) -> list[Indices]:
    """Sort by label, cut into num_clients * shards_per_client shards, assign the shards at random.

    With two shards most clients have only two classes: the pathological non-IID split of McMahan et al.
    (AISTATS 2017, section 3). Shards differ in length by at most one.
    """
    rng = _generator(seed)
    if shards_per_client < 1:
        raise ConfigError(f"shards_per_client must be at least 1, not {shards_per_client}")
    num_shards = num_clients * shards_per_client
    _check_enough(len(labels), num_clients, "examples")
    _check_enough(len(labels), num_shards, "examples", "shards")
    pieces = np.array_split(np.argsort(labels, kind="stable"), num_shards)
    dealt = rng.permutation(num_shards).reshape(num_clients, shards_per_client)
    return _sorted(np.concatenate([pieces[shard] for shard in chosen]) for chosen in dealt)


def dirichlet(labels: Indices, num_clients: int, seed: int, *, alpha: float) -> list[Indices]:
    """Split each class in proportions drawn from a symmetric Dirichlet(alpha) over the clients.

    A small `alpha` gives each class to few clients; a large one is close to IID (Hsu et al. 2019, arXiv:1909.06335). A
    client without examples gets one, chosen at random, from the client that has most at that moment. The rest of the
    draw stays: drawing again until no client is empty would favor even splits, and might never end for a small `alpha`.

    """
    rng = _generator(seed)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"alpha must be a positive number, not {alpha}")
    _check_enough(len(labels), num_clients, "examples")
    parts: list[list[Indices]] = [[] for _ in range(num_clients)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        bounds = np.cumsum(rng.dirichlet(np.full(num_clients, alpha)))[:-1]
        # The sum of the proportions may exceed 1 by a rounding error.
        cuts = np.minimum(np.rint(bounds * len(members)).astype(np.int64), len(members))
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return _sorted(_give_to_the_empty([np.concatenate(part) for part in parts], rng))


def by_writer(writers: Indices, num_clients: int, seed: int) -> list[Indices]:
    """Give each client all images of one writer; `seed` draws the writers and their order."""
    rng = _generator(seed)
    known = np.unique(writers)
    _check_enough(len(known), num_clients, "writers")
    chosen = rng.permutation(known)[:num_clients]
    return [np.flatnonzero(writers == writer).astype(np.int64, copy=False) for writer in chosen]


def _give_to_the_empty(parts: list[Indices], rng: np.random.Generator) -> list[Indices]:
    sizes = np.array([len(part) for part in parts])
    for client in np.flatnonzero(sizes == 0):
        donor = int(np.argmax(sizes))
        place = int(rng.integers(sizes[donor]))
        parts[client] = parts[donor][place : place + 1]
        parts[donor] = np.delete(parts[donor], place)
        sizes[client], sizes[donor] = 1, sizes[donor] - 1
    return parts


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise ConfigError(f"the seed must not be negative, not {seed}")
    return np.random.default_rng(seed)


def _check_enough(available: int, wanted: int, what: str, receivers: str = "clients") -> None:
    if wanted < 1:
        raise ConfigError(f"there must be at least 1 of {receivers}, not {wanted}")
    if wanted > available:
        raise ConfigError(f"{wanted} {receivers}, but only {available} {what}")


def _sorted(parts: Iterable[Indices]) -> list[Indices]:
    return [np.sort(part).astype(np.int64, copy=False) for part in parts]
