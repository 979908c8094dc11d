"""What the server announces of a round, as bytes that a site checks."""

import contextlib
import dataclasses
from typing import Any

import msgpack
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has an environment of its own: make test-nvflare")

from hypothesis import given
from hypothesis import strategies as st

from fl.integrations.nvflare import AnnouncementError
from fl.integrations.nvflare.announcement import Announcement
from secagg import Adversary, plan
from tests.integrations.nvflare.loopback import encoding


def announcement(**changes: Any) -> Announcement:
    chosen = encoding()
    params = plan(num_clients=3, vector_length=100, value_bits=24, adversary=Adversary.MALICIOUS).parameters
    arguments: dict[str, Any] = {
        "job_id": "job", "round": 2, "start_round": 0, "total_rounds": 9, "meta": (("lr", 0.1),),
        "sites": ("a", "b", "c"), "params": params, "encoding": chosen,
        "model_digest": bytes(32), "nonce": b"nonce",
    }  # fmt: skip
    return Announcement(**(arguments | changes))


def test_announcements_survive_the_wire() -> None:
    assert Announcement.from_bytes(announcement().to_bytes()) == announcement()


def test_every_part_is_bound_into_the_session() -> None:
    changes: list[dict[str, Any]] = [
        {"job_id": "other"},
        {"round": 3},
        {"start_round": 1},
        {"total_rounds": 10},
        {"meta": (("lr", 0.0),)},
        {"meta": (("lr", False),)},
        {"meta": ()},
        {"sites": ("a", "b", "d")},
        {"params": dataclasses.replace(announcement().params, vector_length=101)},
        {"encoding": encoding(excluded=("x",))},
        {"encoding": encoding(clip=3.0)},
        {"model_digest": bytes(31) + b"1"},
        {"nonce": b"another"},
    ]
    contexts = {announcement(**change).to_bytes() for change in [{}, *changes]}
    assert len(contexts) == len(changes) + 1


@given(st.binary(max_size=200))
def test_other_bytes_are_no_announcement(data: bytes) -> None:
    with pytest.raises(AnnouncementError):
        Announcement.from_bytes(data)


@given(st.data())
def test_an_announcement_with_a_changed_byte_is_another_or_none(data: st.DataObject) -> None:
    honest = announcement().to_bytes()
    at = data.draw(st.integers(0, len(honest) - 1))
    changed = honest[:at] + bytes([honest[at] ^ data.draw(st.integers(1, 255))]) + honest[at + 1 :]
    with contextlib.suppress(AnnouncementError):
        assert Announcement.from_bytes(changed) != announcement()


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": ("a", "b")},
        {"sites": ("a", "b", "b")},
        {"sites": ("a", "b", 3)},
        {"encoding": encoding(value_bits=20)},
        {"nonce": "text"},
        {"round": "2"},
        {"round": -1},
        {"total_rounds": None},
        {"meta": (("lr", (0.1,)),)},
        {"meta": (("lr", b"0.1"),)},
        {"meta": ((1, 0.1),)},
        {"meta": (("lr", 0.1), ("a", 1))},
        {"meta": (("lr", 0.1), ("lr", 0.2))},
        {"meta": "lr"},
        {"sites": "abc"},
    ],
)
def test_announcements_that_contradict_themselves_are_none(changes: Any) -> None:
    with pytest.raises(AnnouncementError):
        Announcement.from_bytes(announcement(**changes).to_bytes())


@pytest.mark.parametrize("data", [None, "text", 7, b"", bytes((1 << 20) + 1)])
def test_other_things_are_no_announcement(data: object) -> None:
    with pytest.raises(AnnouncementError):
        Announcement.from_bytes(data)


def test_an_exhausting_encoding_is_refused() -> None:
    parts = list(msgpack.unpackb(announcement().to_bytes()))
    parts[6] = [10**30, *parts[6][1:]]
    with pytest.raises((AnnouncementError, OverflowError)):
        Announcement.from_bytes(msgpack.packb(parts))
