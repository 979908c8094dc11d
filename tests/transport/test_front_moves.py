"""A session over two fronts, step by step: clients that move, inputs that are held, deadlines, crashes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secagg import Completed, DropReason, Round
from tests.transport.fronts_world import FrontedWorld
from tests.transport.link_world import MODES
from transport.durable.server_journal import EntryKind
from transport.fronts import items
from transport.fronts.coordinator import HAND_OVER_SECONDS
from transport.fronts.front_host import FrontHost
from transport.fronts.leases import RELEASE_SECONDS

PARAMS = MODES["complete"]
MASKED = Round.MASKED_INPUT_COLLECTION
EVERYBODY = (0, 1, 2, 3, 4)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FrontedWorld]:
    """Return a session in which clients 0 and 1 are at front a, the others at b, and a holds what it has added."""
    monkeypatch.setattr(FrontedWorld, "home", dict(enumerate("aabbb")))
    world = FrontedWorld(PARAMS, tmp_path, "moves")
    tick = FrontHost.tick

    def held(self: FrontHost, now: float) -> None:
        if self is not world.parts.fronts["a"].host or not holding:
            tick(self, now)

    holding = [True]
    world.release = holding.clear
    monkeypatch.setattr(FrontHost, "tick", held)
    yield world
    world.close()


def until(world: FrontedWorld, condition: Callable[[], Any]) -> None:
    for _ in range(200):
        if condition():
            return
        world.step_without_faults()
    raise AssertionError("it never came")


def held_at(world: FrontedWorld, name: str) -> int:
    host = world.parts.fronts[name].host
    return 0 if host is None else host.num_held


def until_all_inputs_are_at_fronts(world: FrontedWorld) -> None:
    until(world, lambda: world.parts.status.received == 3 and held_at(world, "a") == 2)


def move(world: FrontedWorld, client_id: int, name: str, *, noticed: bool = False) -> None:
    world.lose(client_id, server_notices=noticed)
    world.home[client_id] = name
    world.connect(client_id)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["event"] for record in caplog.records if record.name == "transport.fronts"]


def included(world: FrontedWorld) -> tuple[int, ...]:
    outcome = world.settle()
    assert isinstance(outcome, Completed)
    return outcome.included


@pytest.mark.parametrize("noticed", [False, True])
def test_a_client_that_moves_while_its_input_is_held_is_counted_once(
    world: FrontedWorld, noticed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    until_all_inputs_are_at_fronts(world)
    move(world, 0, "b", noticed=noticed)
    # The first front hands over its sum before the second one is asked for anything.
    until(world, lambda: world.parts.round is not MASKED)
    assert included(world) == EVERYBODY
    assert events(caplog) == []


def test_a_client_that_moves_before_its_input_sends_it_at_the_other_front(world: FrontedWorld) -> None:
    until(world, lambda: world.parts.round is MASKED)
    move(world, 0, "b")
    world.release()
    assert included(world) == EVERYBODY
    assert world.parts.coordinator._conversations.leases.of(0).front == "b"


def test_a_client_that_moves_from_a_front_that_is_cut_off_is_counted_once(
    world: FrontedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Its input is in two fronts' sums; one is refused as a whole, and nobody's input is lost."""
    until_all_inputs_are_at_fronts(world)
    first = world.parts.fronts["a"]
    world.cut_off(first)
    move(world, 0, "b")
    until(world, lambda: world.parts.status.received == 4)
    world.heal(first)
    world.release()
    until(world, lambda: world.parts.round is not MASKED)
    assert included(world) == EVERYBODY
    assert events(caplog) == ["partial_refused"]


def test_a_front_that_does_not_give_a_client_up_loses_it(world: FrontedWorld) -> None:
    until_all_inputs_are_at_fronts(world)
    first, up = world.parts.fronts["a"], world.parts.pump_up
    # Its words do not arrive, but its channel lasts.
    world.parts.pump_up = lambda front, *rest: None if front is first else up(front, *rest)  # type: ignore[method-assign]
    move(world, 0, "b")
    for _ in range(5):
        world.commit()
    assert world.parts.status.received == 3
    assert world.parts.deadline == world.now + RELEASE_SECONDS
    world.now += RELEASE_SECONDS
    world.parts.tick(world.now)
    until(world, lambda: world.parts.status.received == 4)
    world.parts.pump_up = up  # type: ignore[method-assign]
    world.release()
    assert included(world) == EVERYBODY


def test_a_front_that_is_killed_with_inputs_costs_nobody(world: FrontedWorld, caplog: pytest.LogCaptureFixture) -> None:
    until_all_inputs_are_at_fronts(world)
    world.kill_front(world.parts.fronts["a"])
    world.home.update({0: "b", 1: "b"})
    assert included(world) == EVERYBODY
    (lost,) = [record for record in caplog.records if record.__dict__["event"] == "front_lost"]
    assert lost.__dict__["clients"] == 2


def test_what_fronts_hold_at_the_deadline_is_handed_over_first(world: FrontedWorld) -> None:
    until_all_inputs_are_at_fronts(world)
    world.lose(4)
    world.now = world.parts.deadline
    world.parts.tick(world.now)
    assert world.parts.round is MASKED
    until(world, lambda: world.parts.round is not MASKED)
    assert included(world) == EVERYBODY


def test_a_front_that_hands_nothing_over_in_time_costs_its_clients(
    world: FrontedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    until_all_inputs_are_at_fronts(world)
    first, up = world.parts.fronts["a"], world.parts.pump_up
    world.parts.pump_up = lambda front, *rest: None if front is first else up(front, *rest)  # type: ignore[method-assign]
    world.now = world.parts.deadline
    world.parts.tick(world.now)
    world.commit()
    world.commit()
    assert world.parts.round is MASKED
    world.now += HAND_OVER_SECONDS
    world.parts.tick(world.now)
    assert world.parts.round is not MASKED
    world.parts.pump_up = up  # type: ignore[method-assign]
    assert included(world) == (2, 3, 4)
    assert {world.parts.dropped[i].reason for i in (0, 1)} == {DropReason.DEADLINE}
    # The late sum is refused as well; its clients know that they were dropped.
    assert events(caplog) == ["front_slow", "partial_refused"]


def test_a_partial_sum_that_is_durable_and_was_not_confirmed_is_taken_once(
    world: FrontedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    until_all_inputs_are_at_fronts(world)
    first = world.parts.fronts["a"]
    first.host._machine.hand_over()
    world.parts.pump_up(first, world.now)
    world.parts.coordinator.commit(world.now)
    # The coordinator crashes before the front hears of it.
    kinds = [entry.kind for entry in world.journal.entries()]
    assert EntryKind.PARTIAL in kinds
    world.crash_server()
    assert world.parts.coordinator._conversations.links[0].digests[2:]
    assert included(world) == EVERYBODY
    assert held_at(world, "a") == 0
    assert events(caplog) == []


def test_acknowledgements_wait_for_the_journal(world: FrontedWorld) -> None:
    until_all_inputs_are_at_fronts(world)
    assert (0, 2) not in world.evidence.acknowledged
    assert (2, 2) in world.evidence.acknowledged
    first = world.parts.fronts["a"]
    first.host._machine.hand_over()
    world.parts.pump_up(first, world.now)
    world.send_from(first)
    assert (0, 2) not in world.evidence.acknowledged
    world.commit()
    assert (0, 2) in world.evidence.acknowledged


def test_words_without_the_lease_count_for_nothing(world: FrontedWorld) -> None:
    until(world, lambda: world.parts.round is MASKED)
    lease = world.parts.coordinator._conversations.leases.of(0)
    before = world.parts.status, len(world.parts.dropped)
    forged = [
        items.Said(0, lease.number, 2, bytes(32), b"x"),
        items.Drop(0, lease.number, DropReason.MALFORMED, "x"),
        items.Left(0, lease.number),
        items.Released(0, lease.number),
        items.Told(17),
        items.Claim(17),
    ]
    world.parts.coordinator.items_received("b", forged, world.now)
    assert (world.parts.status, len(world.parts.dropped)) == before
    assert world.parts.coordinator._conversations.leases.of(0) == lease
    world.release()
    assert included(world) == EVERYBODY
