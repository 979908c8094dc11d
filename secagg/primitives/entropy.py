"""Draw random bytes from the source that the caller gave: `os.urandom`, or a seeded source in a test."""

from collections.abc import Callable
from typing import TypeAlias

from secagg.errors import LocalProtocolError

EntropySource: TypeAlias = Callable[[int], bytes]
"""A function ``entropy(n)`` that returns n random bytes, like the default `os.urandom`; only tests pass another."""


def draw(entropy: EntropySource, size: int) -> bytes:
    """Return ``size`` bytes from ``entropy``; LocalProtocolError if it returns anything else."""
    drawn = entropy(size)
    if not isinstance(drawn, bytes) or len(drawn) != size:
        raise LocalProtocolError(f"the entropy source must return exactly the {size} bytes that it was asked for")
    return drawn
