"""The server's announcement of a round, as bytes that a site checks."""

import contextlib
import dataclasses
from typing import Any

import msgpack
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from hypothesis import given
from hypothesis import strategies as st

from fl.integrations.nvflare import TaskAnnouncementError
from fl.integrations.nvflare.announcement import TaskAnnouncement
from secagg import Adversary, plan
from tests.integrations.nvflare.loopback import encoding


def announcement(**changes: Any) -> TaskAnnouncement:
    chosen = encoding()
    params = plan(num_clients=3, vector_length=100, value_bits=24, adversary=Adversary.MALICIOUS).parameters
    arguments: dict[str, Any] = {
        "job_id": "job", "round": 2, "start_round": 0, "total_rounds": 9, "meta": (("lr", 0.1),),
        "sites": ("a", "b", "c"), "params": params, "encoding": chosen,
        "model_digest": bytes(32), "nonce": b"nonce",
    }  # fmt: skip
    return TaskAnnouncement(**(arguments | changes))


def test_announcements_survive_the_wire() -> None:
    for made in (announcement(), announcement(encoding=encoding(scales=None))):
        assert TaskAnnouncement.from_bytes(made.to_bytes()) == made


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
        {"encoding": encoding(max_steps=65)},
        {"encoding": encoding(num_entries=1)},
        {"encoding": encoding(scales=None)},
        {"model_digest": bytes(31) + b"1"},
        {"nonce": b"another"},
    ]
    contexts = {announcement(**change).to_bytes() for change in [{}, *changes]}
    assert len(contexts) == len(changes) + 1


@given(st.binary(max_size=200))
def test_other_bytes_are_not_an_announcement(data: bytes) -> None:
    with pytest.raises(TaskAnnouncementError):
        TaskAnnouncement.from_bytes(data)


@given(st.data())
def test_an_announcement_with_a_changed_byte_differs_or_is_refused(data: st.DataObject) -> None:
    honest = announcement().to_bytes()
    at = data.draw(st.integers(0, len(honest) - 1))
    changed = honest[:at] + bytes([honest[at] ^ data.draw(st.integers(1, 255))]) + honest[at + 1 :]
    with contextlib.suppress(TaskAnnouncementError):
        assert TaskAnnouncement.from_bytes(changed) != announcement()


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
        {"params": dataclasses.replace(announcement().params, modular=True)},
    ],
)
def test_announcements_that_contradict_themselves_are_refused(changes: Any) -> None:
    with pytest.raises(TaskAnnouncementError):
        TaskAnnouncement.from_bytes(announcement(**changes).to_bytes())


@pytest.mark.parametrize("data", [None, "text", 7, b"", bytes((1 << 20) + 1)])
def test_other_objects_are_not_an_announcement(data: object) -> None:
    with pytest.raises(TaskAnnouncementError):
        TaskAnnouncement.from_bytes(data)


@pytest.mark.parametrize("params", [None, 7, "x" * 29, b"", bytes(28), bytes(29), b"\xff" * 29, [0] * 29])
def test_an_announcement_with_impossible_parameters_is_refused(params: Any) -> None:
    parts = list(msgpack.unpackb(announcement().to_bytes()))
    parts[5] = params
    with pytest.raises(TaskAnnouncementError):
        TaskAnnouncement.from_bytes(msgpack.packb(parts))


def test_an_exhausting_encoding_is_refused() -> None:
    parts = list(msgpack.unpackb(announcement().to_bytes()))
    parts[6] = [[[2.0, 2.0], 2**63], *parts[6][1:]]
    with pytest.raises(TaskAnnouncementError):
        TaskAnnouncement.from_bytes(msgpack.packb(parts))


@pytest.mark.parametrize(
    "scales",
    [
        7, "ab", [], [[2.0]], [2.0, 64], [[2.0, float("nan")], 64], [[2.0, -1.0], 64], [[2.0, float("inf")], 64],
        [[2.0, True], 64], [[2, 2], 64], [["2.0", 2.0], 64], [[2.0, 2.0], 64.0], [[2.0, 2.0], True], [[2.0, 2.0], 0],
        [[2.0, 2.0], 2**40], [[2.0, 2.0], None], [None, 64], [{2.0: 2.0}, 64], [[[2.0], 2.0], 64],
    ],
)  # fmt: skip
def test_an_announcement_with_impossible_bounds_is_refused(scales: Any) -> None:
    parts = list(msgpack.unpackb(announcement().to_bytes()))
    assert parts[6][0] == [[2.0, 2.0], 64]
    parts[6][0] = scales
    with pytest.raises(TaskAnnouncementError):
        TaskAnnouncement.from_bytes(msgpack.packb(parts))


def test_the_content_does_not_depend_on_bounds_and_nonce() -> None:
    asked = announcement().asked
    other = dataclasses.replace(announcement().params, vector_length=101)
    changes: tuple[dict[str, Any], ...] = (
        {"encoding": encoding(scales=None)},
        {"encoding": encoding(clip=3.0)},
        {"nonce": b"x"},
        {"params": other},
    )
    for change in changes:
        assert announcement(**change).asked == asked
    changes = ({"model_digest": bytes(31) + b"1"}, {"meta": ()}, {"round": 3}, {"sites": ("a", "b", "d")})
    for change in changes:
        assert announcement(**change).asked != asked
