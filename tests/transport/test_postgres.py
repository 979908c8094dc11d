"""A run in a database has one process at a time, and a process that has lost it sends nothing more."""

import contextlib
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from secagg import Completed
from tests.support.postgres import leased, new_run
from tests.transport.hosts import new_client, new_host, run_to_the_end
from tests.transport.link_world import CONTEXT, DEADLINES
from transport.durable.server_host import SessionHost
from transport.durable.server_journal import EntryKind, Header, Journal
from transport.errors import JournalError, JournalFullError

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgres]'")

from transport.durable.postgres import PostgresStore  # noqa: E402 - asked for above
from transport.durable.postgres_connection import check_encrypted, holds_password, journal_error  # noqa: E402

HEADER = Header(b"offer", (0, 1), b"s" * 32)
SECRETS = ["s3cr3t", "s3/cr3t", "s3:cr3t", "s3@cr3t", "s3 cr3t", "s3#cr3t"]


@pytest.fixture
def url(postgres) -> str:
    return postgres.url()


def end_sessions(url: str) -> None:
    """End all other sessions of the database, as if their connections were cut."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'secagg' "
            "AND pid <> pg_backend_pid()"
        )


@pytest.mark.live
def test_a_second_process_is_refused_until_the_first_ends(url) -> None:
    run = new_run()
    with PostgresStore(url, run):
        with pytest.raises(JournalError, match="another process serves it"):
            PostgresStore(url, run)
        # Other runs are nobody's concern.
        PostgresStore(url, new_run()).close()
    PostgresStore(url, run).close()


@pytest.mark.live
def test_a_second_process_waits_for_the_first_if_it_is_told_to(url) -> None:
    run, told = new_run(), []
    first = PostgresStore(url, run)

    def waiting() -> None:
        told.append("waits")
        first.close()

    with PostgresStore(url, run, wait=60, waiting=waiting) as second:
        assert not second.exists("j")
    assert told == ["waits"]


@pytest.mark.live
def test_a_killed_process_loses_the_run_at_once(url) -> None:
    run = new_run()
    program = (
        "import sys, time; from transport.durable.postgres import PostgresStore; "
        "store = PostgresStore(*sys.argv[1:]); print('has it', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, url, run], stdout=subprocess.PIPE) as process:  # noqa: S603
        try:
            assert process.stdout.readline() == b"has it\n"
            with pytest.raises(JournalError, match="another process serves it"):
                PostgresStore(url, run)
        finally:
            process.kill()
    PostgresStore(url, run, wait=20).close()


@pytest.mark.live
def test_several_processes_may_make_the_tables_at_once(postgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    url, errors = postgres.url(dbname="empty"), []

    def begin(number: int) -> None:
        try:
            PostgresStore(url, f"run {number}").close()
        except JournalError as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.live
@pytest.mark.parametrize("has_written", [False, True], ids=["nothing new", "new messages"])
def test_a_host_that_has_lost_its_connection_sends_nothing_more(url, has_written: bool) -> None:
    """Also not what needs no commit, as an offer: another process may have gone on."""
    run = new_run()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        host = new_host(journal=journal)
        host.commit(1.0)
        client = new_client(0)
        host.connected(0, 1.0)
        host.frame_received(0, b"".join(client.connected()[0]), 1.0)
        assert not journal.is_dirty
        assert host.commit_blocks
        if has_written:
            for out in host.commit(1.0):
                for reply in client.frame_received(b"".join(out.parts)):
                    host.frame_received(0, b"".join(reply), 1.0)
            assert journal.is_dirty
        end_sessions(url)
        with pytest.raises(JournalError, match="start again to resume"):
            host.commit(1.0)
        with pytest.raises(JournalError, match="start again to resume"):
            host.commit(1.0)
    with contextlib.closing(Journal(leased(url, run))) as journal:
        resumed = SessionHost.resume(journal, deadlines=DEADLINES, now=0.0, context=CONTEXT)
        assert resumed.status.received == 0


@pytest.mark.live
@pytest.mark.parametrize("is_dirty", [False, True])
def test_a_process_that_does_not_notice_that_it_has_lost_the_run_cannot_commit(url, is_dirty: bool) -> None:
    """As behind a connection pooler that gives each transaction another session: there the lock protects nobody."""
    run = new_run()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        journal.begin(HEADER)
        journal.commit()
        journal.confirm()
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("UPDATE secagg.runs SET holder = holder + 1 WHERE name = %s", (run,))
        if is_dirty:
            journal.record(EntryKind.ABORT)
        with pytest.raises(JournalError, match="taken over by another process"):
            (journal.commit if is_dirty else journal.confirm)()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        assert not list(journal.entries())


@pytest.mark.live
def test_a_takeover_waits_for_the_open_transaction(url) -> None:
    """Else both could believe that they have the run when theirs is committed."""
    run = new_run()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        journal.begin(HEADER)
        journal.record(EntryKind.MESSAGE, 1, bytes(20 << 20))  # so much that it is written before the commit
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("UPDATE secagg.runs SET holder = holder + 1 WHERE name = %s", (run,))
        journal.commit()


@pytest.mark.live
def test_a_session_goes_on_from_the_database_alone(url) -> None:
    run = new_run()
    first = Journal(leased(url, run))
    host = new_host(journal=first)
    clients = {i: new_client(i) for i in range(4)}
    for client_id, client in clients.items():
        host.connected(client_id, 1.0)
        host.frame_received(client_id, b"".join(client.connected()[0]), 1.0)
    for out in host.commit(1.0):
        for reply in clients[out.client_id].frame_received(b"".join(out.parts)):
            host.frame_received(out.client_id, b"".join(reply), 1.0)
    host.commit(1.0)
    # The process is gone; its database session ends with it.
    end_sessions(url)
    for client in clients.values():
        client.left()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        resumed = SessionHost.resume(journal, deadlines=DEADLINES, now=0.0, context=CONTEXT)
        run_to_the_end(resumed, clients)
        assert isinstance(resumed.outcome, Completed)
        assert resumed.outcome.included == (0, 1, 2, 3)
    first.close()


@pytest.mark.live
def test_files_are_replaced_together(url) -> None:
    run, large = new_run(), os.urandom(3 << 20)
    with PostgresStore(url, run) as store:
        assert store.read("a") is None
        store.replace({"a": large, "b": b""})
        assert (store.read("a"), store.read("b")) == (large, b"")
        store.replace({"a": b"small"})
        store.remove("b")
        store.remove("b")
    with PostgresStore(url, run) as store, PostgresStore(url, new_run()) as other:
        assert (store.read("a"), store.read("b"), other.read("a")) == (b"small", None, None)


@pytest.mark.live
def test_one_journal_of_a_run_is_open_at_a_time(url) -> None:
    with PostgresStore(url, new_run()) as store:
        first = store.open("first")
        with pytest.raises(JournalError, match="in use"):
            store.open("second")
        first.close()
        assert store.exists("first")
        store.open("second").delete()
        assert not store.exists("second")


@pytest.mark.live
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE secagg.rows SET data = 'x' WHERE series = 1 AND number = 0",
        "UPDATE secagg.rows SET kind = 2 WHERE series = 1 AND number = 0",
        "UPDATE secagg.rows SET client = 3 WHERE series = 1 AND number = 0",
        "DELETE FROM secagg.rows WHERE series = 1 AND number = 0",
        "DELETE FROM secagg.rows WHERE series = 1 AND number = 1 AND part = 0",
        "DELETE FROM secagg.rows WHERE series = 1 AND number = 1 AND part = 1",
        "UPDATE secagg.rows SET part = 7 WHERE series = 1 AND number = 1 AND part = 2",
        "UPDATE secagg.rows SET data = 'x' WHERE series = 2",
        "UPDATE secagg.rows SET kind = 77 WHERE series = 2",
        "UPDATE secagg.rows SET data = 'x' WHERE series = 0 AND number = 0",
        "DELETE FROM secagg.rows WHERE series = 0 AND number = 1",
        "UPDATE secagg.rows SET chain = 5 WHERE series = 0 AND number = 0",
    ],
)
def test_a_changed_row_is_found(url, change: str) -> None:
    run = new_run()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        journal.begin(HEADER)
        journal.record(EntryKind.MESSAGE, 1, b"body")
        journal.record(EntryKind.MESSAGE, 2, bytes(5 << 19))
        journal.record_answer(1, b"random")
        journal.commit()
    table, rest = change.split(" secagg.rows ")
    of_run = "journal IN (SELECT id FROM secagg.journals WHERE run = (SELECT id FROM secagg.runs WHERE name = %s)) AND "
    with psycopg.connect(url, autocommit=True) as connection:
        query = f"{table} secagg.rows {rest.replace('WHERE ', 'WHERE ' + of_run)}"
        assert connection.execute(query.encode(), (run,)).rowcount == 1

    def read() -> None:
        with contextlib.closing(Journal(leased(url, run))) as journal:
            list(journal.entries())
            journal.answers()

    with pytest.raises(JournalError, match="damaged"):
        read()


@pytest.mark.live
def test_a_database_that_is_stopped_and_started_has_every_commit(postgres) -> None:
    url, run = postgres.url(), new_run()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        journal.begin(HEADER)
        journal.record(EntryKind.MESSAGE, 1, b"body")
        journal.commit()
        # As by a power cut: nothing is written at the end.
        postgres.stop("immediate")
        journal.record(EntryKind.ABORT)
        with pytest.raises(JournalError, match="start again to resume"):
            journal.commit()
        postgres.start()
        with pytest.raises(JournalError, match="start again to resume"):
            journal.commit()
    with contextlib.closing(Journal(leased(url, run))) as journal:
        assert [entry.data for entry in journal.entries()] == [b"body"]


@pytest.mark.live
def test_commits_wait_for_the_disk_whatever_the_database_is_set_to(postgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE hasty LOGIN SUPERUSER")
        connection.execute("ALTER ROLE hasty SET synchronous_commit = off")
    with PostgresStore(postgres.url(user="hasty"), new_run()) as store:
        assert store._one("SHOW synchronous_commit") == ("on",)


@pytest.mark.live
def test_commits_wait_for_the_disk_in_another_session_too(url) -> None:
    """A pooler may give each transaction another database session, with the database's own settings."""
    with PostgresStore(url, new_run()) as store, contextlib.closing(Journal(store.open("a"))) as journal:
        store._connection.execute("SET synchronous_commit = off")
        journal.begin(HEADER)
        journal.record(EntryKind.MESSAGE, 1, bytes(20 << 20))  # so much that it is written before the commit
        assert store._one("SHOW synchronous_commit") == ("on",)
        journal.commit()
        assert store._one("SHOW synchronous_commit") == ("off",)


@pytest.mark.live
def test_tables_of_another_version_are_refused(postgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE later")
    url = postgres.url(dbname="later")
    PostgresStore(url, "run").close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE secagg.format SET version = 99")
    with pytest.raises(JournalError, match="format 99, but this version reads format 1"):
        PostgresStore(url, "run")


@pytest.mark.live
def test_a_user_without_rights_is_told_what_to_grant(postgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE stranger LOGIN")
        connection.execute("CREATE DATABASE closed")
    with pytest.raises(JournalError, match="GRANT CREATE ON DATABASE"):
        PostgresStore(postgres.url(dbname="closed", user="stranger"), "run")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "form",
    [
        "postgresql://user:{}@127.0.0.1:1/base",
        "postgresql://user:{}@127.0.0.1/base?port=1",
        "postgresql://127.0.0.1:1/base?password={}",
        "host=127.0.0.1 port=1 dbname=base password='{}'",
        "host=127.0.0.1 port=1 dbname=base password={} nonsense",
        "postgresql://user:{}@127.0.0.1:1:2/base",
        "password={}",
    ],
)
def test_no_error_shows_a_password(secret: str, form: str, monkeypatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    with pytest.raises(JournalError) as caught:
        PostgresStore(form.format(secret), "run")
    text = f"{caught.value!r}{caught.value.__cause__!r}"
    assert not any(part in text for part in ("s3", "cr3t"))


def test_a_password_in_what_the_database_says_is_not_shown() -> None:
    error = journal_error(psycopg.OperationalError("no user with s3cr3t\n\x1b[31m"), "run", "cannot be used", "s3cr3t")
    assert "s3cr3t" not in str(error)
    assert str(error).isprintable()


def test_a_full_disk_of_the_database_has_its_own_error() -> None:
    error = journal_error(psycopg.errors.DiskFull("no space"), "run", "cannot be used", "")
    assert isinstance(error, JournalFullError)
    assert "make room" in str(error)


@pytest.mark.parametrize(
    ("url", "has_one"),
    [("postgresql://u:x@h/d", True), ("service=a", False), ("host=h", False), ("host=h sslpassword=x", True)],
)
def test_a_password_in_a_connection_string_is_noticed(url: str, has_one: bool) -> None:
    assert holds_password(url) is has_one


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 201, "\x1b"])
def test_a_run_needs_a_printable_name(name: str) -> None:
    with pytest.raises(JournalError, match="printable name"):
        PostgresStore("host=127.0.0.1 port=1", name)


@pytest.mark.parametrize(
    ("host", "address", "has_tls", "given", "is_refused"),
    [
        ("db.example", "192.0.2.7", False, {}, True),
        ("db.example", "192.0.2.7", False, {"sslmode": "prefer"}, True),
        ("db.example", "192.0.2.7", False, {"sslmode": "disable"}, False),
        ("db.example", "192.0.2.7", True, {}, False),
        ("db.example", "", False, {}, True),
        ("localhost", "127.0.0.1", False, {}, False),
        ("localhost", "::1", False, {}, False),
        ("/run/postgresql", "", False, {}, False),
    ],
)
def test_a_connection_in_the_clear_to_another_machine_is_refused(
    host: str, address: str, has_tls: bool, given: dict[str, str], is_refused: bool, monkeypatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    connection = SimpleNamespace(
        info=SimpleNamespace(host=host, hostaddr=address), pgconn=SimpleNamespace(ssl_in_use=has_tls)
    )
    with pytest.raises(JournalError, match="sslmode=verify-full") if is_refused else contextlib.nullcontext():
        check_encrypted(connection, given, "postgresql://db")
