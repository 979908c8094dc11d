"""Sessions resumed from the server's journal: they continue where they were; unfit journals are refused."""

import gc
import sqlite3
import tracemalloc

import numpy as np
import pytest

import secagg
from secagg import Aborted, DropReason, PinnedKeys
from tests.support.sessions import any_session, make_params
from tests.transport.crashing_journals import journal_directory
from tests.transport.link_world import CONTEXT, DEADLINES, MODES, World
from transport.durable import frames as link
from transport.durable.client_host import ClientHost
from transport.durable.server_host import SessionHost
from transport.durable.server_journal import AnswerKind, EntryKind, Header, Journal
from transport.errors import JournalError

HEADER = Header(b"offer", (0, 1, 2**32 - 1), b"s" * 32)


@pytest.fixture
def directory():
    with journal_directory() as path:
        yield path


def begun(directory, mode: str = "complete") -> World:
    """Return a session whose journal holds two clients' messages."""
    world = World(MODES[mode], directory, 1)
    for client_id in range(2):
        world.connect(client_id)
        world.deliver_up(client_id)
        world.commit()
        world.deliver_down(client_id)
        world.deliver_up(client_id)
        world.commit()
    return world


def resume(path, **arguments) -> SessionHost:
    journal = Journal(path)
    try:
        return SessionHost.resume(journal, **{"deadlines": DEADLINES, "now": 500.0, "context": CONTEXT, **arguments})
    finally:
        journal.close()


def test_the_open_phase_gets_its_whole_deadline_again(directory) -> None:
    begun(directory).close()
    host = resume(directory / "server.journal")
    assert host.deadline == 600.0
    assert host.status.received == 2
    assert host.connected_clients == frozenset()


def test_a_session_is_not_begun_over_another(directory) -> None:
    begun(directory).close()
    journal = Journal(directory / "server.journal")
    with pytest.raises(JournalError, match="holds a session already"):
        SessionHost(MODES["complete"], deadlines=DEADLINES, now=0.0, journal=journal)
    with pytest.raises(JournalError, match="holds a session already"):
        journal.begin(HEADER)
    journal.close()


def test_there_must_be_a_session_to_resume(directory) -> None:
    with pytest.raises(JournalError, match="no session to resume"):
        resume(directory / "new")
    with pytest.raises(JournalError, match=r"needs a transport\.Journal"):
        SessionHost.resume("path", deadlines=DEADLINES, now=0.0, context=b"")


def test_another_context_is_refused_with_what_to_do(directory) -> None:
    begun(directory).close()
    with pytest.raises(JournalError, match="hash of the same model"):
        resume(directory / "server.journal", context=b"another model")


def test_an_abort_stays_one(directory) -> None:
    world = begun(directory)
    world.server.abort(1.0)
    world.server.commit(1.0)
    world.close()
    host = resume(directory / "server.journal")
    assert isinstance(host.outcome, Aborted)
    assert host.deadline is None


def test_the_directory_is_not_asked_again(directory) -> None:
    """The decision about a client's key at its arrival stays, although the directory has learned other keys since."""
    world = begun(directory, "malicious")
    world.close()
    host = resume(directory / "server.journal", directory=PinnedKeys({}))
    assert host.status.received == 2
    assert not host.dropped


def test_a_drop_is_repeated(directory) -> None:
    world = begun(directory)
    world.server.frame_received(0, b"".join(link.encode(link.Message(0, b"other"))), 1.0)
    world.server.commit(1.0)
    world.close()
    host = resume(directory / "server.journal")
    assert host.dropped[0].reason is DropReason.DUPLICATE


@pytest.mark.parametrize("mode", ["complete", "sparse"])
def test_a_replay_that_differs_is_refused(directory, mode: str) -> None:
    """As by a version of the library that does something else with the same input."""
    world = World(MODES[mode], directory, 1)
    while world.server.round is secagg.Round.ADVERTISE_KEYS:
        world.step_without_faults()
    world.close()
    connection = sqlite3.connect(directory / "server.journal")
    (rows,) = connection.execute("SELECT count(*) FROM entries WHERE kind = 5").fetchone()
    connection.close()
    assert rows
    journal = Journal(directory / "server.journal")
    copy = Journal(directory / "copy")
    copy.begin(journal.header)
    for entry in journal.entries():
        data = bytes(32) if entry.kind is EntryKind.CHECK else entry.data
        copy.record(entry.kind, entry.client_id, data)
    for kind, data in journal.answers():
        copy.record_answer(kind, data)
    copy.commit()
    copy.close()
    journal.close()
    with pytest.raises(JournalError, match="gives other results"):
        resume(directory / "copy")


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([], "other random bytes or keys"),
        ([(AnswerKind.TRUST, b"\x01")], "other random bytes or keys"),
        (None, "needs fewer"),
    ],
)
def test_answers_that_do_not_fit_are_refused(directory, answers, why: str) -> None:
    world = World(MODES["sparse"], directory, 1)
    while world.server.round is secagg.Round.ADVERTISE_KEYS:
        world.step_without_faults()
    world.close()
    journal = Journal(directory / "server.journal")
    copy = Journal(directory / "copy")
    copy.begin(journal.header)
    for entry in journal.entries():
        copy.record(entry.kind, entry.client_id, entry.data)
    for kind, data in [*journal.answers(), (AnswerKind.DRAW, b"more")] if answers is None else answers:
        copy.record_answer(kind, data)
    copy.commit()
    copy.close()
    journal.close()
    with pytest.raises(JournalError, match=why):
        resume(directory / "copy")


@pytest.mark.live
def test_a_replay_takes_memory_for_one_masked_input_and_not_for_all(directory) -> None:
    """20 inputs of 800 kB each are in the journal; the replay holds a few of them."""
    params = make_params(20, 11, vector_length=200_000, value_bits=16, ring_bits=32)
    journal = Journal(directory / "j")
    host = SessionHost(params, deadlines=DEADLINES, now=0.0, context=CONTEXT, journal=journal)
    vector = np.ones(200_000, dtype=np.int64)
    clients = {i: ClientHost(i, lambda offer: vector, accept=any_session, context=CONTEXT) for i in range(20)}
    for client_id, client in clients.items():
        host.connected(client_id, 0.0)
        host.frame_received(client_id, b"".join(client.connected()[0]), 0.0)
    while host.round is not secagg.Round.UNMASKING:
        for out in host.commit(0.0):
            for reply in clients[out.client_id].frame_received(b"".join(out.parts)):
                host.frame_received(out.client_id, b"".join(reply), 0.0)
    host.commit(0.0)
    journal.close()
    del host, clients
    gc.collect()
    journal = Journal(directory / "j")
    tracemalloc.start()
    host = SessionHost.resume(journal, deadlines=DEADLINES, now=0.0, context=CONTEXT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    journal.close()
    assert host.round is secagg.Round.UNMASKING
    assert peak < 5 * 800_000, peak
