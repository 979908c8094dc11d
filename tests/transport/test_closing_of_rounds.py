"""Closing a round may compute for long: it waits for the commit, which a server runs beside its event loop.

That is Unmasking in each session, and every round in a session of very many clients.
"""

import asyncio
import threading
from contextlib import closing

import pytest

from secagg import Completed, Round, Server, ServerPhase
from tests.support.sessions import make_params, random_inputs
from tests.transport.hosts import new_client, new_host, payload_of, run_to_the_end
from tests.transport.link_world import CONTEXT, DEADLINES
from tests.transport.network import check_exact, join, served
from transport.durable import frames as link
from transport.durable.server_host import SessionHost
from transport.durable.server_journal import Journal
from transport.tcp import PLAINTEXT, Limits
from transport.tcp.connection import PONG, Connection


@pytest.fixture
def closings(monkeypatch) -> list[threading.Thread]:
    """Return the threads in which Unmasking was closed."""
    threads = []
    close_round = Server.close_round

    def noting(server):
        if server.phase is ServerPhase.UNMASKING:
            threads.append(threading.current_thread())
        return close_round(server)

    monkeypatch.setattr(Server, "close_round", noting)
    return threads


def until_all_shares_are_in(host: SessionHost, missing: tuple[int, ...] = ()) -> float:
    """Let all clients answer but those missing from Unmasking; return the time."""
    clients = {i: new_client(i) for i in range(4)}
    for client_id, client in clients.items():
        host.connected(client_id, 1.0)
        host.frame_received(client_id, b"".join(client.connected()[0]), 1.0)
    while host.status.pending > (len(missing) if host.round is Round.UNMASKING else 0):
        for out in host.commit(1.0):
            for reply in clients[out.client_id].frame_received(b"".join(out.parts)):
                if host.round is not Round.UNMASKING or out.client_id not in missing:
                    host.frame_received(out.client_id, b"".join(reply), 1.0, out.connection)
    return 1.0


def test_the_last_share_does_not_close_unmasking_and_the_commit_does(closings):
    host = new_host()
    now = until_all_shares_are_in(host)
    assert not closings
    assert host.commit_blocks
    assert host.deadline is None
    host.commit(now)
    assert len(closings) == 1
    assert not host.commit_blocks
    host.finish(host.job.run(), now)
    host.commit(now)
    assert isinstance(host.outcome, Completed)


def test_the_deadline_does_not_close_unmasking_and_the_commit_does(closings):
    host = new_host()
    until_all_shares_are_in(host, missing=(3,))
    assert not host.commit_blocks
    host.tick(host.deadline)
    assert not closings
    assert host.commit_blocks
    # A frame that comes in between is not lost: a PING is answered.
    host.frame_received(0, payload_of(link.Ping()), 200.0)
    assert payload_of(link.Pong()) in [b"".join(out.parts) for out in host.commit(200.0)]
    assert len(closings) == 1
    assert host.dropped.keys() == {3}
    host.finish(host.job.run(), 200.0)
    host.commit(200.0)
    assert host.outcome.included == (0, 1, 2, 3)


def test_a_session_that_is_given_up_before_the_commit_is_not_closed(closings):
    host = new_host()
    now = until_all_shares_are_in(host)
    host.abort(now)
    assert not host.commit_blocks
    host.commit(now)
    assert not closings
    assert host.outcome is not None


@pytest.mark.parametrize("missing", [(), (3,)], ids=["by the last share", "by the deadline"])
def test_a_replay_closes_unmasking_where_it_was_closed(missing, tmp_path, closings):
    with closing(Journal(tmp_path / "journal")) as journal:
        host = new_host(journal=journal)
        now = until_all_shares_are_in(host, missing)
        if missing:
            assert host.deadline is not None
            host.tick(now := host.deadline)
        host.commit(now)
        job = host.job
    with closing(Journal(tmp_path / "journal")) as journal:
        resumed = SessionHost.resume(journal, deadlines=DEADLINES, now=0.0, context=CONTEXT)
        assert len(closings) == 2
        assert resumed.job == job
        assert resumed.dropped.keys() == set(missing)
        assert not resumed.commit_blocks
        resumed.finish(resumed.job.run(), 0.0)
        resumed.commit(0.0)
        assert isinstance(resumed.outcome, Completed)


def test_no_other_round_of_a_small_session_waits_for_the_commit(closings):
    host = new_host()
    run_to_the_end(host, {i: new_client(i) for i in range(4)})
    assert len(closings) == 1


@pytest.fixture
def large(monkeypatch):
    """Let sessions of four clients count as large ones."""
    monkeypatch.setattr("transport.durable.replayed_machine._MANY_CLIENTS", 3)


def test_in_a_large_session_the_commit_closes_every_round(large, monkeypatch):
    """Building the graph and handing out a hundred thousand clients' shares must not stop the event loop."""
    rounds, close_round = [], Server.close_round

    def noting(server):
        assert in_commit
        rounds.append(server.round)
        return close_round(server)

    monkeypatch.setattr(Server, "close_round", noting)
    commit, in_commit = SessionHost.commit, []

    def committed(host, now):
        in_commit.append(now)
        try:
            return commit(host, now)
        finally:
            in_commit.pop()

    monkeypatch.setattr(SessionHost, "commit", committed)
    host = new_host()
    run_to_the_end(host, {i: new_client(i) for i in range(4)}, missing=())
    assert isinstance(host.outcome, Completed)
    assert rounds == [Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING]


def test_a_large_session_is_replayed_as_it_was_closed(large, tmp_path):
    """By the last message, by the deadline, and by the goal."""
    with closing(Journal(tmp_path / "journal")) as journal:
        host = new_host(journal=journal)
        host.goal = 3
        clients = {i: new_client(i) for i in range(4)}
        for client_id, client in clients.items():
            host.connected(client_id, 1.0)
            host.frame_received(client_id, b"".join(client.connected()[0]), 1.0)
        while host.job is None:
            for out in host.commit(1.0):
                for reply in clients[out.client_id].frame_received(b"".join(out.parts)):
                    # One sends no input; the next one no shares at the end.
                    late = {Round.MASKED_INPUT_COLLECTION: 3, Round.UNMASKING: 2}.get(host.round)
                    if out.client_id != late:
                        host.frame_received(out.client_id, b"".join(reply), 1.0, out.connection)
            host.tick(1.0)
            if host.round is Round.UNMASKING and host.status.received == 2:
                assert host.deadline is not None
                host.tick(host.deadline)
                assert host.commit_blocks
        assert host.dropped.keys() == {2, 3}
        job = host.job
    with closing(Journal(tmp_path / "journal")) as journal:
        resumed = SessionHost.resume(journal, deadlines=DEADLINES, now=0.0, context=CONTEXT)
        assert resumed.job == job
        assert resumed.dropped.keys() == {2, 3}


@pytest.mark.parametrize("sparse", [False, True])
def test_pings_are_answered_while_unmasking_is_being_closed(sparse, monkeypatch, closings):
    """The closing itself waits for the answer, which could never come if it blocked the event loop."""
    answered = threading.Event()
    was_answered = []
    close_round, send = Server.close_round, Connection.send

    def waiting(server):
        if server.phase is ServerPhase.UNMASKING:
            answered.clear()
            was_answered.append(answered.wait(10))
        return close_round(server)

    def noting(connection, parts, *, last=False):
        # Only the server's side of a connection has a key.
        if connection.key is not None and b"".join(parts) == PONG:
            answered.set()
        send(connection, parts, last=last)

    monkeypatch.setattr(Server, "close_round", waiting)
    monkeypatch.setattr(Connection, "send", noting)
    params = make_params(5, 3, vector_length=4) if not sparse else make_params(6, 2, vector_length=4, degree=4)
    inputs = random_inputs(params, seed=1)
    impatient = Limits(idle_seconds=0.05, answer_seconds=20)

    async def scenario():
        async with served(params, PLAINTEXT) as serving:
            await asyncio.gather(*(join(serving.port, inputs[i], PLAINTEXT, i, limits=impatient) for i in inputs))
            return await serving.task

    report = asyncio.run(scenario())
    assert was_answered == [True]
    assert closings[0] is not threading.main_thread()
    assert check_exact(params, inputs, report.outcome)
    assert len(report.outcome.included) == len(inputs)
    assert report.counters.reconnects == 0
