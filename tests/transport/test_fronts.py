"""Sessions over fronts in this process, with TLS: exact sums whatever fails, and nobody is counted twice."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secagg import Round
from tests.support.sessions import make_params, random_inputs
from tests.transport.fronted import Fronted, fronted
from tests.transport.network import check_exact, deployment
from transport.fronts import front, items
from transport.fronts.server import FrontedServer
from transport.tcp import Retry

pytestmark = pytest.mark.live

CLIENTS = 6
PARAMS = make_params(CLIENTS, 3, vector_length=50_000, value_bits=16)
INPUTS = random_inputs(PARAMS, 7)
ROUNDS = (Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING)
MASKED = Round.MASKED_INPUT_COLLECTION
PATIENT = Retry(first=0.02, longest=0.3, give_up=30)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployment(tmp_path_factory.mktemp("certs"), CLIENTS)


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def everybody(world: Fronted) -> list[asyncio.Task]:
    """Join with all clients: each begins at one front, and tries the other one if that does not answer."""
    address = [("127.0.0.1", one.port) for one in world.fronts]
    return [world.join(0, INPUTS[i], i, address=address, retry=PATIENT) for i in INPUTS]


def complete(world: Fronted, outcome: Any) -> None:
    assert check_exact(PARAMS, INPUTS, outcome)
    assert outcome.included == tuple(INPUTS)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["event"] for record in caplog.records if record.name == "transport.fronts"]


def test_a_session_over_two_fronts_has_the_sum_of_all(certs: Path) -> None:
    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            session, ends = world.run(), everybody(world)
            complete(world, await session)
            assert [(await end).included for end in ends] == [CLIENTS] * CLIENTS
            assert world.host.counters.connections == CLIENTS
            at = [{i for i in INPUTS if one.told and _was_granted(one, i)} for one in world.fronts]
            assert at == [{0, 2, 4}, {1, 3, 5}]

    asyncio.run(run())


def _was_granted(one: Any, client_id: int) -> bool:
    return any(type(item).__name__ == "Granted" and item.client_id == client_id for item in one.told)


def test_clients_wait_at_any_front_for_a_session_and_count_once(certs: Path) -> None:
    async def run() -> None:
        async with fronted(PARAMS, certs, enrolled=frozenset(range(CLIENTS))) as world:
            waiting: list[int] = []
            ends = [
                world.join(i % 2, INPUTS[i], i, on_waiting=lambda word: waiting.append(word.present)) for i in INPUTS
            ]
            async with asyncio.timeout(10):
                await world.server.gather(CLIENTS)
            # With its next PING a client hears of those at the other front.
            await until(lambda: max(waiting, default=0) == CLIENTS)
            assert world.server.num_waiting == world.server.num_connections == CLIENTS
            complete(world, await world.run())
            await asyncio.gather(*ends)
            await until(lambda: not world.server.num_waiting)

    asyncio.run(run())


def lose_first_front(world: Fronted) -> Any:
    return world.fronts[0].kill()


async def cut_off_first_front(world: Fronted) -> None:
    world.fronts[0].is_cut = True


async def slow_down_first_front(world: Fronted) -> None:
    world.fronts[0].delay = 0.3


@pytest.mark.parametrize("round_", ROUNDS, ids=lambda round_: round_.name)
@pytest.mark.parametrize("fault", [lose_first_front, slow_down_first_front])
def test_a_front_that_is_killed_or_slow_in_any_round_costs_nobody(certs: Path, fault: Any, round_: Round) -> None:
    """The clients of a killed front come to the other one, and send again what was not durable."""

    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            session, ends = world.run(seconds=20), everybody(world)
            await until(lambda: world.host.round is round_)
            await fault(world)
            complete(world, await session)
            await asyncio.gather(*ends)

    asyncio.run(run())


def test_a_front_that_is_cut_off_comes_back_with_its_clients_and_inputs(
    certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            session, ends = world.run(seconds=20), everybody(world)
            shares = 2
            await until(
                lambda: sum(getattr(item, "sent", 0) == shares for item in world.fronts[0].told) == CLIENTS // 2
            )
            world.fronts[0].is_cut = True
            await until(lambda: world.host.status.received == CLIENTS // 2)
            await until(lambda: world.fronts[0].front._host.num_held == CLIENTS // 2)
            connections = world.host.counters.connections
            world.fronts[0].is_cut = False
            complete(world, await session)
            await asyncio.gather(*ends)
            assert world.host.counters.connections == connections == CLIENTS

    asyncio.run(run())
    assert [event for event in events(caplog) if event.startswith("front_")] == ["front_down", "front_up"]


def test_a_front_that_stays_away_costs_its_clients_and_the_sum_is_of_the_others(certs: Path) -> None:
    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            session = world.run(seconds=1.5)
            ends = [world.join(i % 2, INPUTS[i], i) for i in INPUTS]
            await until(lambda: world.host.round is MASKED)
            await cut_off_first_front(world)
            outcome = await session
            assert check_exact(PARAMS, INPUTS, outcome)
            assert outcome.included == (1, 3, 5)
            assert world.host.dropped.keys() == {0, 2, 4}
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("round_", ROUNDS, ids=lambda round_: round_.name)
def test_a_coordinator_that_crashes_goes_on_with_the_same_fronts_and_connections(
    certs: Path, round_: Round, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"

    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            session, ends = world.run(journal, seconds=20), everybody(world)
            await until(lambda: world.host.round is round_)
            # Like kill -9: nobody is told, and what was not committed is gone.
            for task in (*world.server._tasks, session):
                task.cancel()
            await asyncio.gather(*world.server._tasks, session, return_exceptions=True)
            for channel in world.server._channels.values():
                channel.queue.clear()
            world.journal.close()
            async with FrontedServer(world.fronts, world.server._limits) as world.server:
                complete(world, await world.run(journal, seconds=20))
                await asyncio.gather(*ends)
                assert sum(one.front._server._listener._accepted for one in world.fronts) == CLIENTS

    asyncio.run(run())


def test_a_front_without_a_coordinator_sends_its_clients_away_and_ends(
    certs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(front, "ORPHAN_SECONDS", 0.5)
    monkeypatch.setattr(front, "HEAR_SECONDS", 0.1)

    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            world.run(seconds=20)
            told: list[str] = []
            client = world.join(0, INPUTS[0], 0, retry=PATIENT, unreachable=told.append)
            await until(lambda: world.host.status.received)
            await cut_off_first_front(world)
            first = world.fronts[0].front
            await until(lambda: not first._server.addresses and not first._server.num_connections)
            client.cancel()
            await asyncio.gather(client, return_exceptions=True)

    asyncio.run(run())
    assert "front_ended" in events(caplog)


def test_words_of_an_older_channel_are_refused(certs: Path) -> None:
    async def run() -> None:
        async with fronted(PARAMS, certs) as world:
            one = world.fronts[0].front
            with pytest.raises(front.FrontUnreachableError, match="a newer coordinator speaks to it"):
                await one.open(5)
            world.run()
            await until(lambda: one._host is not None)
            for call in (one.tell(5, [items.Finish(stopping=True)]), one.hear(5)):
                with pytest.raises(front.FrontUnreachableError, match="another channel"):
                    await call
            assert one._host is not None

    asyncio.run(run())
