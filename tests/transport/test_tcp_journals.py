"""Journals of served and joined sessions: when they are deleted, who owns them, and who waits for their writes."""

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.support.sessions import make_params, random_inputs
from tests.transport.network import check_exact, deployment, join, served
from transport.durable.client_journal import ClientJournal
from transport.durable.server_host import SessionHost
from transport.errors import JournalError

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return deployment(tmp_path_factory.mktemp("certs"), 4)


async def run(params, inputs, certs, **options):
    async with served(params, certs, **options) as serving:
        await asyncio.gather(*(join(serving.port, inputs[i], certs, i) for i in inputs))
        return await serving.task


def test_the_journal_is_there_until_the_sum_is_saved(certs, tmp_path):
    params = make_params(3, 2)
    inputs = random_inputs(params, seed=0)
    path = tmp_path / "journal"
    saved = []

    def fail(report):
        assert path.exists()
        raise OSError("no space left")

    def save(report):
        assert path.exists()
        saved.append(report)

    with pytest.raises(OSError, match="no space"):
        asyncio.run(run(params, inputs, certs, journal=path, on_outcome=fail))
    assert path.exists()

    async def again():
        async with served(params, certs, journal=path, on_outcome=save) as serving:
            # All clients have been told, so none comes any more.
            return await serving.task

    report = asyncio.run(again())
    assert saved == [report]
    assert check_exact(params, inputs, report.outcome)
    assert report.outcome.included == (0, 1, 2)
    assert not path.exists()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"params": make_params(3, 3)}, "parameters"),
        ({"client_ids": (0, 1, 3)}, "clients"),
        ({"client_ids": (0, 2, 1)}, "clients"),
        ({"nonce": b"another"}, "nonce"),
        ({"extra": b"another"}, "announcement"),
        ({"number": 8}, "number"),
        ({"number": 8, "extra": b""}, "announcement, number"),
        ({"context": b"another"}, "context"),
    ],
)
def test_a_journal_of_another_session_is_refused(certs, tmp_path, changed, what):
    same = {"params": make_params(3, 2), "extra": b"round 7", "number": 7, "nonce": b"nonce", "context": b"model"}

    async def begin_and_stop(**options):
        committed = asyncio.Event()
        options |= {"journal": tmp_path / "journal", "observer": lambda _: committed.set()}
        async with served(certs=certs, **options):
            await asyncio.wait_for(committed.wait(), 5)

    asyncio.run(begin_and_stop(**same))
    with pytest.raises(JournalError, match=f"holds a session with (other|another) {what}"):
        asyncio.run(begin_and_stop(**same | changed))
    # Fields that are not sent are not compared, and the refusal has changed nothing.
    del same["nonce"]
    asyncio.run(begin_and_stop(**same))


def test_a_client_does_not_take_up_anothers_journal(certs, tmp_path):
    params = make_params(3, 3)
    inputs = random_inputs(params, seed=0)

    async def scenario():
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop(offer):
            loop.call_soon_threadsafe(asked.set)
            raise ZeroDivisionError

        async with served(params, certs) as serving:
            journal = ClientJournal(tmp_path / "client", tmp_path / "key")
            clients = [
                asyncio.create_task(join(serving.port, stop if i == 0 else inputs[i], certs, i, **extra))
                for i, extra in ((0, {"journal": journal}), (1, {}), (2, {}))
            ]
            await asyncio.wait_for(asked.wait(), 5)
            with pytest.raises(ZeroDivisionError):
                await clients[0]
            journal.close()
            with (
                ClientJournalOf(tmp_path) as journal,
                pytest.raises(JournalError, match="client 0, not to client 3"),
            ):
                await join(serving.port, inputs[0], certs, 3, journal=journal)
            for client in clients[1:]:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    asyncio.run(scenario())


class ClientJournalOf:
    def __init__(self, directory):
        self._journal = ClientJournal(directory / "client", directory / "key")

    def __enter__(self):
        return self._journal

    def __exit__(self, *_):
        self._journal.close()


@pytest.fixture
def slow_disk(monkeypatch):
    """Make commits slow, in a thread; record calls of the host meanwhile."""
    commit = SessionHost.commit
    begun, go_on = threading.Event(), threading.Event()
    go_on.set()
    seen: dict[str, Any] = {
        "commits": 0,
        "overlaps": 0,
        "threads": set(),
        "writing": False,
        "begun": begun,
        "go on": go_on,
    }

    def slowly(host, now):
        if host.commit_blocks:
            seen["commits"] += 1
            seen["threads"].add(threading.current_thread())
            seen["writing"] = True
            begun.set()
            time.sleep(0.05)
            assert go_on.wait(10)
            outgoing = commit(host, now)
            seen["writing"] = False
            return outgoing
        return commit(host, now)

    def noting(name):
        original = getattr(SessionHost, name)

        def call(*args):
            seen["overlaps"] += seen["writing"]
            return original(*args)

        monkeypatch.setattr(SessionHost, name, call)

    monkeypatch.setattr(SessionHost, "commit", slowly)
    for name in ("connected", "left", "frame_received", "tick", "finish"):
        noting(name)
    return seen


def test_no_call_of_the_host_comes_while_it_waits_for_the_disk(certs, tmp_path, slow_disk):
    params = make_params(4, 4, vector_length=5000)
    inputs = random_inputs(params, seed=0)
    turns = []

    async def scenario():
        async def count():
            while True:
                turns.append(slow_disk["writing"])
                await asyncio.sleep(0.005)

        counting = asyncio.create_task(count())
        report = await run(params, inputs, certs, journal=tmp_path / "journal")
        counting.cancel()
        return report

    report = asyncio.run(scenario())
    assert check_exact(params, inputs, report.outcome)
    assert report.dropped == {}
    assert slow_disk["commits"] >= 5
    assert slow_disk["overlaps"] == 0
    # The event loop continued meanwhile.
    assert sum(turns) >= 10
    assert threading.main_thread() not in slow_disk["threads"]


def test_cancelling_waits_for_the_disk(certs, tmp_path, slow_disk):
    params = make_params(2, 2)
    inputs = random_inputs(params, seed=0)
    path = tmp_path / "journal"

    slow_disk["go on"].clear()

    async def scenario():
        async with served(params, certs, journal=path) as serving:
            assert await asyncio.to_thread(slow_disk["begun"].wait, 10)
            for _ in range(3):
                serving.task.cancel()
                await asyncio.sleep(0.005)
            assert slow_disk["writing"]
            slow_disk["go on"].set()
            with pytest.raises(asyncio.CancelledError):
                await serving.task
            assert not slow_disk["writing"]
        return await run(params, inputs, certs, journal=path)

    assert check_exact(params, inputs, asyncio.run(scenario()).outcome)
    assert slow_disk["overlaps"] == 0
