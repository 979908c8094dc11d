"""Rounds of `secagg serve` while a disk is full: they wait for room. Other faults of the disk end the run."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fl.errors import ConfigError
from fl.files import replace_file
from fl.network import client as joining
from fl.network import server as serving
from fl.network import session_files
from fl.network.session_files import FolderStore, SessionFiles
from fl.runs import checkpoint
from tests.fl.network.harness import CLIENTS, Deployment
from tests.fl.network.test_network_spoilt_rounds import Training
from transport import Journal, JournalFullError
from transport.tcp import Retry

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    return Deployment(tmp_path, monkeypatch)


def test_a_full_disk_holds_rounds_up_and_ends_nothing(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's journal finds no room in round 1, nor the checkpoint after round 2: each comes later."""
    monkeypatch.setattr(serving, "_FULL", Retry(first=0.05, longest=0.1))
    full = {"journal": 3, "checkpoint": 3}
    commit = Journal.commit

    def committed(self: Journal) -> None:
        # The second time it holds the first clients' keys.
        full["journal"] -= 1
        if full["journal"] in (0, 1):
            raise JournalFullError("round.journal cannot be used (database or disk is full)")
        commit(self)

    def replaced(path: Path, data: bytes) -> None:
        if (
            path.name == "checkpoint.safetensors"
            and full["checkpoint"]
            and training.clients
            and any(training.trained(2))
        ):
            full["checkpoint"] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(path, data)

    training = Training(deployment, rounds=3)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", committed)
        patch.setattr(checkpoint, "replace_file", replaced)
        finished = training.serve(training.start_all)
    training.finish()
    assert full["journal"] < 0
    assert full["checkpoint"] == 0
    assert not finished.interrupted
    assert [record.aborted for record in training.records()] == [None] * 3
    assert [record.included for record in training.records()] == [tuple(range(CLIENTS))] * 3
    # No client trained twice for a round: its session continued.
    assert [training.trained(number) for number in (1, 2, 3)] == [[1] * CLIENTS] * 3
    said = [line for line in deployment.output if "as soon as there is room" in line]
    assert len(said) == 2
    assert "No space left on device" in said[1]


def test_another_fault_of_the_disk_is_not_waited_out(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(deployment, rounds=1)

    def replaced(path: Path, data: bytes) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(checkpoint, "replace_file", replaced)
    with pytest.raises(ConfigError, match="Permission denied"):
        training.serve(lambda: None)


def test_a_session_that_a_full_disk_kept_from_beginning_begins_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the record of its beginning, a session with a later journal would count as one that never was."""
    files = SessionFiles(FolderStore(tmp_path), "round")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(session_files, "replace_file", full)
        with pytest.raises(OSError, match="No space left"):
            files.begin(1)
    # So `begin` is called again.
    assert not files.exists
    files.begin(1)
    assert files.exists
    (tmp_path / "round.journal").unlink()
    assert files.is_lost(1)
