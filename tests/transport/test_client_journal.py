"""A client's journal: encrypted, bound to its place, deleted at the end, and never a way to a second answer."""

import shutil
import sqlite3
import stat

import numpy as np
import pytest

import secagg
from tests.transport.crashing_journals import journal_directory
from tests.transport.link_world import MODES, World
from transport.durable import frames as link
from transport.durable.client_host import ClientHost
from transport.durable.client_journal import ClientJournal, Saved
from transport.durable.frames import RefusalCode
from transport.errors import JournalError

SESSION = b"s" * 32


@pytest.fixture
def directory():
    with journal_directory() as path:
        yield path


def opened(directory, name: str = "j", key: str = "key") -> ClientJournal:
    return ClientJournal(directory / name, directory / key)


def filled(directory) -> ClientJournal:
    journal = opened(directory)
    journal.begin(7, SESSION, b"the offer")
    journal.save(b"machine 0", 0, (b"answer 0",), [])
    journal.save(b"machine 1", 1, (b"answer one", memoryview(b", and more")), [b"d" * 32])
    return journal


def test_the_last_saved_state_comes_back(directory) -> None:
    filled(directory).close()
    journal = opened(directory)
    assert (journal.client_id, journal.session_id, journal.offer) == (7, SESSION, b"the offer")
    assert journal.load() == Saved(b"machine 1", 1, b"answer one, and more", (b"d" * 32,))
    journal.save(b"machine 2", 2, (b"answer 2",), [b"d" * 32] * 2)
    journal.close()
    journal = opened(directory)
    assert journal.load().machine == b"machine 2"
    journal.close()


def test_a_client_begun_but_not_saved_is_not_stored(directory) -> None:
    journal = opened(directory)
    journal.begin(7, SESSION, b"the offer")
    journal.close()
    journal = opened(directory)
    assert journal.is_empty
    with pytest.raises(JournalError, match="no session to resume"):
        journal.load()
    journal.close()


def test_files_hold_no_plaintext_and_are_the_owners_alone(directory) -> None:
    journal = filled(directory)
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        data = path.read_bytes()
        assert b"machine" not in data
        assert b"answer one" not in data
        assert b"the offer" not in data
    journal.close()


def test_equal_states_look_different(directory) -> None:
    """Nonces are random, and each journal has its own key."""
    sealed = []
    for name in ("a", "b"):
        journal = opened(directory, name)
        journal.begin(7, SESSION, b"")
        for _ in range(2):
            journal.save(b"machine", 0, (b"answer",), [])
            sealed += next(journal._database.rows("SELECT state, answer, nonces FROM state"))
        journal.close()
    assert len(set(sealed)) == len(sealed)


def test_the_key_file_is_made_once_and_serves_many(directory) -> None:
    opened(directory, "a").close()
    key = (directory / "key").read_bytes()
    opened(directory, "b").close()
    assert (directory / "key").read_bytes() == key
    assert len(key) == 32
    assert sorted(path.name for path in directory.iterdir()) == ["a", "b", "key"]


def test_a_key_that_others_can_read_is_refused(directory) -> None:
    (directory / "key").write_bytes(bytes(32))
    (directory / "key").chmod(0o640)
    with pytest.raises(JournalError, match="chmod 600"):
        opened(directory)


def test_the_key_may_lie_elsewhere_behind_a_link(directory, tmp_path) -> None:
    """A copy of the folder has the link, and not the key."""
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (directory / "key").symlink_to(tmp_path / "key")
    opened(directory).close()
    assert (tmp_path / "key").read_bytes() == bytes(range(32))
    (tmp_path / "key").unlink()
    with pytest.raises(JournalError, match="cannot be used"):
        opened(directory)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33), b"passphrase\n"])
def test_an_invalid_key_file_is_refused_and_left_unchanged(directory, content: bytes) -> None:
    (directory / "key").write_bytes(content)
    (directory / "key").chmod(0o600)
    with pytest.raises(JournalError, match="exactly 32 bytes"):
        opened(directory)
    assert (directory / "key").read_bytes() == content
    assert not (directory / "j").exists()


def test_no_key_file_to_be_had(directory) -> None:
    with pytest.raises(JournalError, match="cannot be used"):
        opened(directory, key="missing/key")
    (directory / "folder").mkdir()
    with pytest.raises(JournalError, match="cannot be used"):
        opened(directory, key="folder")


def test_another_key_is_one_clear_error(directory) -> None:
    filled(directory).close()
    with pytest.raises(JournalError, match="does not open with this key file") as caught:
        opened(directory, key="other")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE state SET state = answer, answer = state",
        "UPDATE state SET place = place + 1",
        "UPDATE state SET place = -1",
        "UPDATE state SET place = 'x'",
        "UPDATE state SET nonces = x'00'",
        "UPDATE state SET state = x'00'",
        "UPDATE state SET answer = zeroblob(length(answer))",
        "UPDATE session SET client = 8",
        "UPDATE session SET client = -1",
        "UPDATE session SET session_id = zeroblob(32)",
        "UPDATE session SET salt = zeroblob(32)",
        "UPDATE session SET nonce = zeroblob(12)",
        "UPDATE session SET nonce = x''",
        "UPDATE session SET offer = 'text'",
        "DELETE FROM state",
        "DROP TABLE state",
    ],
)
def test_a_changed_file_is_one_clear_error(directory, change: str) -> None:
    filled(directory).close()
    connection = sqlite3.connect(directory / "j")
    connection.execute(change)
    connection.commit()
    connection.close()

    def read() -> None:
        journal = opened(directory)
        try:
            journal.load()
        finally:
            journal.close()

    with pytest.raises(JournalError):
        read()


def test_rows_of_another_journal_do_not_open(directory) -> None:
    filled(directory).close()
    other = opened(directory, "other")
    other.begin(7, b"t" * 32, b"the offer")
    other.save(b"machine", 1, (b"answer",), [])
    other.close()
    connection = sqlite3.connect(directory / "j")
    connection.execute("ATTACH ? AS other", (str(directory / "other"),))
    connection.execute("DELETE FROM state")
    connection.execute("INSERT INTO state SELECT * FROM other.state")
    connection.commit()
    connection.close()
    journal = opened(directory)
    with pytest.raises(JournalError, match="does not open"):
        journal.load()
    journal.close()


def test_a_session_is_not_begun_over_another(directory) -> None:
    journal = filled(directory)
    with pytest.raises(JournalError, match="holds a session already"):
        journal.begin(7, SESSION, b"")
    with pytest.raises(JournalError, match="holds a session already"):
        ClientHost(7, lambda offer: np.zeros(1), journal=journal)  # type: ignore[return-value]
    with pytest.raises(JournalError, match="in use"):
        opened(directory)
    journal.delete()
    assert [path.name for path in directory.iterdir()] == ["key"]


def test_reprs_hold_no_secret(directory) -> None:
    journal = filled(directory)
    assert repr(journal) == f"<ClientJournal {directory / 'j'}>"
    assert repr(journal.load()) == "Saved(sequence=1)"
    journal.close()


# With a host.


def test_journals_are_gone_when_the_session_is_over(directory) -> None:
    world = World(MODES["complete"], directory, 1)
    world.settle()
    assert all(client.outcome == link.End(link.EndCode.COMPLETED, 5) for client in world.clients.values())
    left = ["key", "participation.db", "server.journal", "server.journal-wal"]
    assert sorted(path.name for path in directory.iterdir()) == left
    world.journal.delete()
    # The record of participation outlives the client's journals.
    assert sorted(path.name for path in directory.iterdir()) == ["key", "participation.db"]


@pytest.mark.parametrize("hear", ["end", RefusalCode.NO_SESSION])
def test_a_client_that_comes_back_too_late_is_told_and_deletes_its_journal(directory, hear) -> None:
    world = World(MODES["complete"], directory, 1)
    world.connect(0)
    world.deliver_up(0)
    world.commit()
    world.deliver_down(0)
    world.crash_client(0)
    client = world.clients[0]
    assert client.in_session
    frame = link.End(link.EndCode.CANCELLED) if hear == "end" else link.Refused(hear)
    (hello,) = client.connected()
    assert link.decode_client_frame(b"".join(hello)) == link.Hello(client._client.session_id, 0)
    client.frame_received(b"".join(link.encode(frame)))
    assert client.finished
    assert not (directory / "0.journal").exists()
    world.close()


def test_a_client_that_was_replaced_leaves_its_journal_to_the_other(directory) -> None:
    world = World(MODES["complete"], directory, 1)
    world.connect(0)
    world.deliver_up(0)
    world.commit()
    world.deliver_down(0)
    client = world.clients[0]
    client.frame_received(b"".join(link.encode(link.Refused(RefusalCode.REPLACED))))
    assert client.finished
    journal = opened(directory, "0.journal")
    assert not journal.is_empty
    journal.close()
    world.close()


def test_an_identity_must_be_the_one_that_the_session_began_with(directory) -> None:
    world = World(MODES["malicious"], directory, 1)
    world.connect(0)
    world.deliver_up(0)
    world.commit()
    world.deliver_down(0)
    world.close()
    journal = opened(directory, "0.journal")
    with pytest.raises(secagg.LocalProtocolError, match="identity"):
        ClientHost.resume(journal, lambda offer: np.zeros(7), identity=secagg.Identity(b"x" * 32))  # type: ignore[return-value]
    journal.close()


def test_a_journal_of_another_client_is_refused(directory) -> None:
    journal = filled(directory)
    with pytest.raises(JournalError, match="to client 7, not to client 8"):
        ClientHost.resume(journal, lambda offer: np.zeros(7), client_id=8)  # type: ignore[return-value]
    journal.close()


def test_an_answer_is_stored_before_it_is_given_out(directory) -> None:
    """A copy of the files at the time of the answer gives the same bytes, and nothing else."""
    world = World(MODES["complete"], directory, 1)
    copies = []
    for turn in range(60):
        before = dict(world.evidence.up)
        world.step_without_faults()
        for client_id, sequence in world.evidence.up.keys() - before.keys():
            if world.clients[client_id].finished:
                continue
            copy = directory.parent / f"{directory.name}-{turn}-{client_id}"
            copy.mkdir()
            for name in (f"{client_id}.journal", f"{client_id}.journal-wal", "key"):
                shutil.copy(directory / name, copy / name)
            (copy / "key").chmod(0o600)
            journal = opened(copy, f"{client_id}.journal")
            saved = journal.load()
            journal.close()
            shutil.rmtree(copy)
            assert (saved.sequence, saved.answer) == (sequence, world.evidence.up[client_id, sequence])
            copies.append((client_id, sequence))
        if world.server.outcome is not None:
            break
    # The last answers are followed within one turn by the end and the journals' deletion.
    assert {sequence for _, sequence in copies} >= {0, 1, 2}
    world.close()
