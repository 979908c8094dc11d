"""Randomness, from the source that the caller gave: `os.urandom`, or a seeded one in a test."""

from collections.abc import Callable
from typing import TypeAlias

from secagg.errors import LocalProtocolError

EntropySource: TypeAlias = Callable[[int], bytes]
"""Gives so many random bytes, like `os.urandom`, the default everywhere; only tests pass another."""


def draw(entropy: EntropySource, size: int) -> bytes:
    """``size`` bytes from ``entropy``; LocalProtocolError if it returns anything else."""
    drawn = entropy(size)
    if not isinstance(drawn, bytes) or len(drawn) != size:
        raise LocalProtocolError(f"the entropy source must return exactly the {size} bytes that it was asked for")
    return drawn
