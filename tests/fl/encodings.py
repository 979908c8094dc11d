"""Encodings with fixed bounds, updates of given sizes, and the error of their average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.aggregation.encoding import ClientUpdate, UpdateEncoding
from fl.aggregation.scales import Scales


def fixed_encoding(
    update_length: int, *, max_examples: int = 10, clip: float = 1.0, value_bits: int = 16, num_clients: int = 9
) -> UpdateEncoding:
    """Return a fixed encoding of updates of one tensor."""
    return UpdateEncoding(
        sizes=(update_length,), num_clients=num_clients, value_bits=value_bits, scales=Scales((clip,), max_examples)
    )


def updates_of(
    amplitudes: Sequence[float], sizes: Sequence[int], examples: Sequence[int], seed: int = 0
) -> list[ClientUpdate]:
    """Return updates of clients that partly agree: normal elements with each tensor's amplitude."""
    rng = np.random.default_rng(seed)
    scale = np.repeat(np.asarray(amplitudes, dtype=np.float64), sizes)
    common = rng.normal(size=len(scale))
    return [
        ClientUpdate(
            ((common + rng.normal(size=len(scale))) * scale).astype(np.float32), count, float(count), ((0, 1),)
        )
        for count in examples
    ]


def mean_of(updates: list[ClientUpdate]) -> npt.NDArray[np.float64]:
    weights = [float(update.num_examples) for update in updates]
    return np.average(np.stack([update.delta for update in updates]).astype(np.float64), axis=0, weights=weights)


def worst_error(found: npt.NDArray[Any], exact: npt.NDArray[Any], sizes: Sequence[int]) -> float:
    """Return the largest relative error (in Euclidean norm) of a tensor's average."""
    ends = np.cumsum(sizes)[:-1]
    return max(
        float(np.linalg.norm(one - other) / np.linalg.norm(other)) if other.any() else float(np.abs(one).max())
        for one, other in zip(np.split(found, ends), np.split(exact, ends), strict=True)
    )
