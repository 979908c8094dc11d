"""Announcements that are small on the wire and large in memory."""

import tracemalloc

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.errors import TaskAnnouncementError


def test_an_announcement_of_maps_is_refused_before_they_are_made() -> None:
    size = (1 << 20) - 7
    bomb = b"\x98\x01\xdd" + size.to_bytes(4, "big") + b"\x80" * size
    assert len(bomb) == 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(TaskAnnouncementError, match="not a valid announcement"):
            TaskAnnouncement.from_bytes(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
