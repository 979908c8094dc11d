"""A client's record: each session once, each round once, after any failure of processes and files."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transport import BudgetSpentError, ClientRecord, JournalError, Participation, RepeatedSessionError


def record(path: Path | None, client: bytes = b"key", **options) -> ClientRecord:
    """Return a client's record as a newly started process has it."""
    return ClientRecord(Participation(path), client, **{"training": "flu", **options})


def test_a_session_is_entered_once_by_each_client(tmp_path) -> None:
    path = tmp_path / "record"
    record(path).check(b"session")
    record(path).enter(b"session")
    record(path, b"other key").enter(b"session")
    record(path).enter(b"another session")
    for client in (b"key", b"other key"):
        with pytest.raises(RepeatedSessionError, match="has taken part in this session before"):
            record(path, client).check(b"session")
        with pytest.raises(RepeatedSessionError, match="has taken part in this session before"):
            record(path, client, training=None).enter(b"session")
    # The client that is resumed is the one that entered.
    record(path).enter(b"session", again=True)


def test_a_resumed_client_that_had_not_entered_yet_enters(tmp_path) -> None:
    record(tmp_path / "record").enter(b"session", again=True)
    with pytest.raises(RepeatedSessionError):
        record(tmp_path / "record").enter(b"session")


def test_clients_and_sessions_are_told_apart() -> None:
    kept = Participation(None)
    ClientRecord(kept, b"ab").enter(b"c")
    ClientRecord(kept, b"a").enter(b"bc")
    with pytest.raises(RepeatedSessionError):
        ClientRecord(kept, b"a").enter(b"bc")


def test_rounds_are_answered_once_and_upwards(tmp_path) -> None:
    path = tmp_path / "record"
    assert record(path).last_answered() is None
    record(path).answer(b"one", 3)
    # A client that crashed in between does it again.
    record(path).answer(b"one", 3)
    for number in (3, 2, 0):
        with pytest.raises(RepeatedSessionError, match=f"round {number} was offered, .* answered round 3 of 'flu'"):
            record(path).check_round(number)
        with pytest.raises(RepeatedSessionError):
            record(path).answer(b"two", number)
    record(path).check_round(4)
    record(path).answer(b"two", 7)
    assert record(path).last_answered() == 7
    # Other clients, and other trainings and runs, have their own rounds.
    record(path, b"other key").answer(b"two", 1)
    record(path, training="cold").answer(b"three", 1)
    record(path, run="second").answer(b"four", 1)
    assert record(path).last_answered() == 7


@pytest.mark.parametrize("number", [-1, 2**63])
def test_invalid_rounds_are_refused(number: int) -> None:
    with pytest.raises(RepeatedSessionError, match="not the number of a round"):
        record(None).check_round(number)


def test_a_budget_counts_the_rounds_of_all_runs(tmp_path) -> None:
    path = tmp_path / "record"
    for number, run in ((1, "a"), (2, "a"), (1, "b")):
        record(path, run=run, max_rounds=3).answer(b"session %d%s" % (number, run.encode()), number)
    with pytest.raises(RepeatedSessionError, match="has answered 3 rounds of 'flu', and its budget is 3"):
        record(path, run="c", max_rounds=3).check_round(1)
    with pytest.raises(RepeatedSessionError, match="budget"):
        record(path, run="a", max_rounds=3).answer(b"another", 3)
    # A given answer may be sent again, and the user may allow a larger budget.
    record(path, run="b", max_rounds=3).answer(b"session 1b", 1)
    record(path, run="c", max_rounds=4).check_round(1)


def test_one_huge_number_does_not_shut_a_client_out(tmp_path) -> None:
    path = tmp_path / "record"
    record(path, max_rounds=10).answer(b"one", 9)
    for number in (20, 2**62):
        with pytest.raises(BudgetSpentError, match=f"round {number} was offered, which is more than 10, .* round 9"):
            record(path, max_rounds=10).check_round(number)
    record(path, max_rounds=10).answer(b"two", 19)


def test_without_a_training_sessions_have_no_order() -> None:
    loose = record(None, training=None)
    for session in (b"one", b"two"):
        loose.check_round(0)
        loose.answer(session, 0)
    assert loose.last_answered() is None


def test_among_concurrent_calls_one_answers(tmp_path) -> None:
    def attempt(number: int) -> bool:
        try:
            record(tmp_path / "record").answer(b"session %d" % number, 1)
        except RepeatedSessionError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(64))) == 1


def test_answers_of_a_killed_process_stay_recorded(tmp_path) -> None:
    program = (
        "import os, signal, sys\n"
        "from transport import BudgetSpentError, ClientRecord, Participation\n"
        "ClientRecord(Participation(sys.argv[1]), b'key', training='flu').answer(b'session', 5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "record"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60)  # noqa: S603 - our own program
    assert killed.returncode == -9
    with pytest.raises(RepeatedSessionError, match="answered round 5"):
        record(path).check_round(5)


def test_the_record_names_only_necessary_parties(tmp_path) -> None:
    path = tmp_path / "record"
    kept = Participation(path)
    kept.use(b"a suspended client's secret bytes")
    assert b"secret bytes" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(kept)


def test_a_file_of_something_else_is_left_alone(tmp_path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"a file of somebody's" * 100)
    with pytest.raises(JournalError, match="was not changed"):
        Participation(path)
    assert path.read_bytes().startswith(b"a file")
    other = tmp_path / "database"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine(x)")
    connection.close()
    with pytest.raises(JournalError, match="a database of another program"):
        Participation(other)


def test_folders_that_others_could_change_are_refused(tmp_path) -> None:
    Participation.in_folder(tmp_path / "made" / "inside")
    assert (tmp_path / "made" / "inside").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "made")
    (tmp_path / "file").touch()
    for name, why in (("open", "writable for nobody else"), ("link", "not a link"), ("file", "cannot be used")):
        with pytest.raises(JournalError, match=why):
            Participation.in_folder(tmp_path / name)


def test_a_measurement_is_refused_after_another_process_answered_its_round(tmp_path) -> None:
    path = tmp_path / "record"

    def ranges() -> ClientRecord:
        return record(path, training="flu (ranges)", before=record(path))

    late = ranges()
    late.check_round(1)
    record(path).answer(b"update", 1)
    with pytest.raises(RepeatedSessionError, match="has answered round 1 of 'flu'"):
        late.answer(b"ranges", 1)
    assert ranges().last_answered() is None
    ranges().answer(b"ranges", 2)
    record(path).answer(b"update of 2", 2)
    # The session that was answered in time may be resumed.
    ranges().answer(b"ranges", 2)
