"""The server's journal: committed data is there, other data is not, and no foreign file is used."""

import contextlib
import errno
import sqlite3
import stat
import subprocess
import sys

import pytest

from tests.support import postgres as postgres_server
from tests.transport.crashing_journals import journal_directory
from tests.transport.link_world import MODES, World
from transport.durable.client_journal import ClientJournal
from transport.durable.database import Database
from transport.durable.server_journal import AnswerKind, Entry, EntryKind, Header, Journal
from transport.durable.storage import SqliteStorage
from transport.errors import JournalError, JournalFullError

HEADER = Header(b"offer", (0, 1, 2**32 - 1), b"s" * 32)


@pytest.fixture
def directory():
    with journal_directory() as path:
        yield path


@pytest.fixture(params=["file", pytest.param("postgresql", marks=pytest.mark.live)])
def place(request, directory):
    """Return a function that opens one place for a journal, again and again."""
    if request.param == "file":
        return lambda: directory / "j"
    url, run = request.getfixturevalue("postgres").url(), postgres_server.new_run()
    return lambda: postgres_server.leased(url, run)


def filled(place) -> Journal:
    journal = Journal(place)
    journal.begin(HEADER)
    journal.record(EntryKind.MESSAGE, 2**32 - 1, b"body")
    journal.record_answer(AnswerKind.DRAW, b"random")
    journal.record(EntryKind.CLOSE)
    journal.commit()
    return journal


def database_of(journal: Journal) -> Database:
    assert isinstance(journal._storage, SqliteStorage)
    return journal._storage.database


def number_of_entries(place) -> int:
    with contextlib.closing(Journal(place)) as journal:
        return len(list(journal.entries()))


def test_exactly_the_committed_data_is_there(place) -> None:
    journal = filled(place())
    assert not journal.is_dirty
    journal.record(EntryKind.DROP, 1, b"lost")
    assert journal.is_dirty
    journal.close()
    journal = Journal(place())
    assert journal.header == HEADER
    assert list(journal.entries()) == [
        Entry(EntryKind.MESSAGE, 2**32 - 1, b"body"),
        Entry(EntryKind.CLOSE, 0, b""),
    ]
    assert journal.answers() == [(AnswerKind.DRAW, b"random")]
    # It continues where it was.
    journal.record(EntryKind.ABORT)
    journal.commit()
    journal.close()
    assert number_of_entries(place()) == 3


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 3 * 2**20, 20 * 2**20 + 7])
def test_data_of_every_size_comes_back(place, size: int) -> None:
    """A database has it in parts, and writes what is large before the commit."""
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    with contextlib.closing(Journal(place())) as journal:
        journal.begin(Header(data, (1,), b"s" * 32))
        # The buffer of a message is used again once the call has returned.
        buffer = bytearray(data)
        journal.record(EntryKind.MESSAGE, 1, memoryview(buffer))
        buffer[:] = bytes(size)
        journal.record(EntryKind.MESSAGE, 2, b"next")
        journal.commit()
    with contextlib.closing(Journal(place())) as journal:
        assert journal.header == Header(data, (1,), b"s" * 32)
        first, second = journal.entries()
        assert first.data == data
        assert second.data == b"next"


def test_what_was_written_early_and_not_committed_is_not_there(place) -> None:
    journal = filled(place())
    journal.record(EntryKind.MESSAGE, 1, bytes(20 << 20))
    journal.record(EntryKind.MESSAGE, 2, bytes(20 << 20))
    journal.close()
    assert number_of_entries(place()) == 2


def test_an_entry_may_be_left_unread(place) -> None:
    journal = filled(place())
    for _ in journal.entries():
        break
    assert len(list(journal.entries())) == 2
    journal.record(EntryKind.ABORT)
    journal.commit()
    journal.close()
    assert number_of_entries(place()) == 3


def test_a_deleted_journal_is_empty_when_it_is_opened_again(place) -> None:
    journal = filled(place())
    journal.record(EntryKind.ABORT)
    journal.delete()
    journal.delete()
    with pytest.raises(JournalError, match="is closed"):
        journal.record(EntryKind.ABORT)
    journal.close()
    with contextlib.closing(Journal(place())) as journal:
        assert journal.is_empty
        assert not list(journal.entries())


def test_a_journal_is_its_owners_alone(directory) -> None:
    journal = filled(directory / "j")
    files = sorted(directory.iterdir())
    assert [path.name for path in files] == ["j", "j-wal"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    journal.close()


def test_deleting_leaves_nothing(directory) -> None:
    journal = filled(directory / "j")
    journal.delete()
    journal.delete()
    assert list(directory.iterdir()) == []
    with pytest.raises(JournalError, match="is closed"):
        journal.record(EntryKind.ABORT)


@pytest.mark.live
def test_only_one_process_has_it(directory) -> None:
    journal = filled(directory / "j")
    with pytest.raises(JournalError, match="in use"):
        Journal(directory / "j")
    command = "import sys; from transport.durable.server_journal import Journal; Journal(sys.argv[1])"
    other = subprocess.run(  # noqa: S603
        [sys.executable, "-c", command, directory / "j"], capture_output=True, text=True, check=False
    )
    assert "JournalError" in other.stderr
    assert "another process runs its session" in other.stderr
    journal.close()
    Journal(directory / "j").close()


def test_durability_is_asked_of_the_disk(directory) -> None:
    journal = filled(directory / "j")
    connection = database_of(journal)._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\x00", b"\x00" * 5000, bytes(range(256)) * 40])
def test_other_files_are_refused_and_left_unchanged(directory, content: bytes) -> None:
    path = directory / "j"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"not a journal|damaged"):
        Journal(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_unchanged(directory) -> None:
    path = directory / "j"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t(x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="another program"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_clients_journal_is_not_a_servers(directory) -> None:
    ClientJournal(directory / "j", directory / "key").close()
    with pytest.raises(JournalError, match="another program"):
        Journal(directory / "j")


def test_another_format_is_refused_with_what_to_do(directory) -> None:
    filled(directory / "j").close()
    connection = sqlite3.connect(directory / "j")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(JournalError, match=r"format 99.*finish its session with the version that began it"):
        Journal(directory / "j")


def test_an_unreachable_path_is_a_typed_error(directory) -> None:
    with pytest.raises(JournalError, match="No such file"):
        Journal(directory / "missing" / "j")
    with pytest.raises(JournalError):
        Journal(directory)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET data = x'00' WHERE id = 0",
        "UPDATE entries SET kind = 2 WHERE id = 0",
        "UPDATE entries SET client = 3 WHERE id = 0",
        "UPDATE entries SET data = 'text' WHERE id = 0",
        "DELETE FROM entries WHERE id = 0",
        "UPDATE answers SET data = x'00'",
        "UPDATE answers SET kind = 77",
        "UPDATE session SET offer = x'00'",
        "UPDATE session SET clients = x'00'",
        "UPDATE session SET session_id = 'text'",
        "DROP TABLE entries",
    ],
)
def test_a_changed_row_is_found(directory, change: str) -> None:
    filled(directory / "j").close()
    connection = sqlite3.connect(directory / "j")
    connection.execute(change)
    connection.commit()
    connection.close()

    def read() -> None:
        journal = Journal(directory / "j")
        try:
            list(journal.entries())
            journal.answers()
        finally:
            journal.close()

    with pytest.raises(JournalError, match=r"damaged|cannot be used"):
        read()


def test_damaged_bytes_are_found_or_harmless(directory) -> None:
    """For every page that is hit: one of our errors, or everything as it was."""
    filled(directory / "j").close()
    intact = (directory / "j").read_bytes()
    for at in range(0, len(intact), 97):
        data = bytearray(intact)
        data[at : at + 8] = b"\xff" * 8
        path = directory / f"damaged{at}"
        path.write_bytes(data)
        journal = None
        try:
            journal = Journal(path)
            assert journal.is_empty or journal.header == HEADER
            if not journal.is_empty:
                assert [entry.data for entry in journal.entries()] == [b"body", b""]
                assert journal.answers() == [(AnswerKind.DRAW, b"random")]
        except JournalError:
            pass
        finally:
            if journal is not None:
                journal.close()


def test_a_failed_write_stops_everything_that_follows(directory) -> None:
    journal = filled(directory / "j")
    connection = database_of(journal)._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    journal.record(EntryKind.ABORT)
    with pytest.raises(JournalError, match="see to the disk"):
        journal.record(EntryKind.MESSAGE, 1, bytes(100_000))
    # SQLite took the first one back too: continuing would leave a hole.
    with pytest.raises(JournalError, match="start again to resume"):
        journal.commit()
    with pytest.raises(JournalError, match="start again to resume"):
        journal.record(EntryKind.ABORT)
    journal.close()
    assert number_of_entries(directory / "j") == 2


def test_a_host_whose_journal_fails_sends_nothing_more(directory) -> None:
    world = World(MODES["complete"], directory, 1)
    for client_id in range(5):
        world.connect(client_id)
        world.deliver_up(client_id)
    world.commit()
    world.deliver_down(0)
    connection = database_of(world.journal)._connection
    connection.execute(f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}")
    frame = world.wires[0].up.popleft()
    # The page is full: a message of an allowed size finds no room.
    with pytest.raises(JournalError, match="see to the disk"):
        world.server.frame_received(0, frame + bytes(5000), 1.0)
    with pytest.raises(JournalError, match="start again to resume"):
        world.server.commit(1.0)
    with pytest.raises(JournalError, match="start again to resume"):
        world.server.tick(1000.0)
    world.close()


def test_a_full_disk_has_its_own_error_and_writing_continues_when_there_is_room(directory, monkeypatch) -> None:
    """SQLite's own limit of a file's pages replaces the disk's."""
    path = directory / "j"
    journal = filled(path)
    ((pages,),) = database_of(journal).rows("PRAGMA page_count")
    assert list(database_of(journal).rows(f"PRAGMA max_page_count={pages + 1}"))
    with pytest.raises(JournalFullError, match="full"):
        journal.record(EntryKind.MESSAGE, 1, bytes(1 << 16))
    with pytest.raises(JournalError, match="start again to resume") as caught:
        journal.commit()
    assert not isinstance(caught.value, JournalFullError)
    journal.close()
    journal = Journal(path)
    before = len(list(journal.entries()))
    journal.record(EntryKind.MESSAGE, 1, bytes(1 << 16))
    journal.commit()
    journal.close()
    assert number_of_entries(path) == before + 1

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transport.durable.database.os.open", full)
    with pytest.raises(JournalFullError, match="No space left"):
        Journal(directory / "other")
