"""Clients at fronts that send more than the protocol lets them: they cost themselves their place, and nobody else."""

from pathlib import Path

import pytest

from secagg import Completed, Round
from tests.transport.fronts_world import FrontedWorld
from tests.transport.link_world import MODES
from transport.durable.frames import Message, decode_client_frame, encode
from transport.fronts import items
from transport.fronts.front_host import FrontHost

PARAMS = MODES["complete"]
MASKED = Round.MASKED_INPUT_COLLECTION
HOSTILE = 0


class Hostile(FrontedWorld):
    """Client 0 is at front a with client 1, and front a holds what it has added until `holding` is False."""

    home = dict(enumerate("aabbb"))  # noqa: RUF012 - as in the base class
    holding = True
    late: int | None = None
    inputs: dict[int, bytes]

    def send(self, sequence: int, data: bytes) -> None:
        """Send a message of client 0, whatever its host thinks of it."""
        front = self.parts.fronts["a"]
        if self.connected_at_a():
            front.host.frame_received(HOSTILE, b"".join(encode(Message(sequence, data))), self.now)

    def connected_at_a(self) -> int:
        return self.parts.fronts["a"].host._conversations.links[HOSTILE].connection

    def until(self, condition) -> None:
        for _ in range(300):
            if condition():
                return
            self.step_without_faults()
        raise AssertionError("it never came")

    def until_all_inputs_are_at_fronts(self) -> None:
        self.until(lambda: self.parts.status.received == 3 and self.parts.fronts["a"].host.num_held == 2)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = Hostile(PARAMS, tmp_path, "hostile")
    world.inputs = {}
    tick, received = FrontHost.tick, FrontHost.frame_received

    def held(self: FrontHost, now: float) -> None:
        if self is not world.parts.fronts["a"].host or not world.holding:
            tick(self, now)

    def recorded(self: FrontHost, client_id: int, payload, now: float, connection=None) -> None:
        frame = decode_client_frame(payload)
        if isinstance(frame, Message) and frame.sequence == 2:
            world.inputs[client_id] = bytes(frame.body)
            if client_id == world.late:
                return
        received(self, client_id, payload, now, connection)

    monkeypatch.setattr(FrontHost, "tick", held)
    monkeypatch.setattr(FrontHost, "frame_received", recorded)
    yield world
    world.close()


def test_a_second_input_of_a_client_is_not_added_to_the_sum_of_the_first(world: Hostile) -> None:
    world.until_all_inputs_are_at_fronts()
    held = world.parts.fronts["a"].host._machine.held
    before = held._sum.copy()
    world.send(3, world.inputs[HOSTILE])
    assert held._sum is None or (held._sum == before).all()
    world.holding = False
    outcome = world.settle()
    assert isinstance(outcome, Completed)
    # As in one process: what it sent first is in the sum, and it is dropped for the second.
    assert HOSTILE in world.parts.dropped
    assert 1 in outcome.included


def test_a_client_that_sends_inputs_again_and_again_does_not_spoil_the_sums_of_others(
    world: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    front = world.parts.fronts["a"]
    # Its first input is durable, that of client 1 comes later.
    world.late = 1
    world.until(lambda: world.parts.status.received == 3 and front.host.num_held == 1)
    front.host._machine.hand_over()
    world.commit()
    assert world.parts.status.received == 4
    for sequence in range(3, 8):
        world.send(sequence, world.inputs[HOSTILE])
    assert not front.host.num_held
    world.late = None
    world.lose(1)
    world.holding = False
    outcome = world.settle()
    assert isinstance(outcome, Completed)
    assert 1 in outcome.included
    assert HOSTILE in world.parts.dropped
    assert "partial_refused" not in [getattr(record, "event", "") for record in caplog.records]


def test_messages_that_nobody_asked_for_do_not_pile_up_at_a_front(world: Hostile) -> None:
    """The coordinator, which would drop the client, may be away for two minutes."""
    world.until(lambda: world.parts.round is MASKED)
    front = world.parts.fronts["a"]
    front.host.take_items()
    for sequence in range(2, 16):
        world.send(sequence, bytes(1_000))
    assert sum(isinstance(item, items.Said) for item in front.host.take_items()) <= 2
    assert not world.connected_at_a()


def test_large_frames_do_not_wait_for_a_lease(world: Hostile) -> None:
    """All clients may connect while the coordinator is away."""
    world.until(lambda: world.parts.round is MASKED)
    world.lose(HOSTILE)
    front = world.parts.fronts["a"]
    front.host.connected(HOSTILE, world.now)
    world.send(2, bytes(100_000))
    assert HOSTILE not in front.host._waiting
    assert not world.connected_at_a()


def test_a_client_with_a_new_lease_is_not_added_to_a_sum_that_it_is_in(world: Hostile) -> None:
    """A coordinator that starts again knows no leases; it may hear of a new connection before the front's old ones."""
    world.until_all_inputs_are_at_fronts()
    front, before = world.parts.fronts["a"], world.parts.coordinator._conversations.leases.of(HOSTILE)
    world.crash_server()
    world.parts.coordinator._conversations.leases._last = before.number + 10
    world.lose(HOSTILE)
    world.connect(HOSTILE)
    world.parts.pump_up(front, world.now)
    # It sends its input again, which nobody has acknowledged; the front still holds the first one.
    for _ in range(30):
        world.step_without_faults()
    world.holding = False
    outcome = world.settle()
    assert isinstance(outcome, Completed)
    assert outcome.included == (0, 1, 2, 3, 4)
