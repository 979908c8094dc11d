"""Announcements that are small on the wire and large in memory: they are refused before memory is allocated."""

import tracemalloc
from collections.abc import Callable

import pytest

from fl.integrations.record_layout import RecordError, RecordLayout

MIB = 1 << 20

# An array of empty maps, one byte each on the wire and 64 in memory; alone, and in the place of a field.
MAPS = b"\xdd" + (4 * MIB).to_bytes(4, "big") + b"\x80" * (4 * MIB)
NESTED = b"\x94\x01" + MAPS


def peak(work: Callable[[], object]) -> int:
    """Return the peak of allocated bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bomb", [MAPS, NESTED])
def test_a_layout_of_maps_is_refused_before_they_are_made(bomb: bytes) -> None:
    def read() -> None:
        with pytest.raises(RecordError, match="not a layout"):
            RecordLayout.from_bytes(bomb)

    assert peak(read) < MIB
