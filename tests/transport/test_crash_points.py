"""A crash between any two operations: the session ends with the exact sum, and no statement is taken back."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secagg import Completed
from tests.transport.crash_child import finish
from tests.transport.crashing_journals import journal_directory
from tests.transport.link_world import MODES, World

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]


def operations_of(mode: str) -> tuple[int, dict[int, int]]:
    """Return the number of journal operations in a session without faults: the server's, and each client's."""
    with journal_directory() as directory:
        world = World(MODES[mode], directory, "count")
        journals = {i: client._journal for i, client in world.clients.items()}
        world.settle()
        counts = {i: journal.operations for i, journal in journals.items()}
        operations = world.journal.operations
        world.close()
        return operations, counts


# Every operation of a small session; of a larger one, each test takes some.
STRIDES = {"complete": 1, "sparse": 4, "semi-malicious": 9, "malicious": 5, "malicious sparse": 11}


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_crashes_at_any_operation_ends_with_the_exact_sum(mode: str) -> None:
    operations, _ = operations_of(mode)
    assert operations > 60
    for crash_at in range(1, operations + 1, STRIDES[mode]):
        with journal_directory() as directory:
            world = World(MODES[mode], directory, "count")
            world.journal.crash_at = crash_at
            outcome = world.settle()
            assert world.crashes == 1
            assert isinstance(outcome, Completed)
            assert len(outcome.included) == world.params.num_clients
            world.close()


def test_a_server_that_crashes_again_and_again_still_gets_there() -> None:
    for every in (3, 5, 9):
        with journal_directory() as directory:
            world = World(MODES["sparse"], directory, every)
            world.journal.crash_at = every

            def start(world: World = world, every: int = every) -> None:
                World.start_server(world)
                world.journal.crash_at = every * (1 + world.crashes // 4)

            world.start_server = start
            assert isinstance(world.settle(), Completed)
            assert world.crashes > 3
            world.close()


@pytest.mark.parametrize("mode", ["complete", "malicious sparse"])
def test_a_client_that_crashes_at_any_operation_answers_once_and_is_in_the_sum(mode: str) -> None:
    _, counts = operations_of(mode)
    for client_id in (0, 2) if mode == "complete" else (1,):
        assert counts[client_id] >= 9
        for crash_at in range(1, counts[client_id] + 1):
            with journal_directory() as directory:
                world = World(MODES[mode], directory, "count")
                world.clients[client_id]._journal.crash_at = crash_at
                outcome = world.settle()
                assert world.crashes == 1
                assert isinstance(outcome, Completed)
                assert len(outcome.included) == world.params.num_clients
                world.close()


@pytest.mark.parametrize(("mode", "stride"), [("complete", 2), ("malicious sparse", 7)])
def test_all_can_resume_from_the_files_at_any_operation(mode: str, stride: int) -> None:
    """As after a power cut: copies of all files, also of those that are half written, and nothing else."""
    tried = 0
    with journal_directory() as directory:
        copies = directory / "copies"
        copies.mkdir()
        files = directory / "files"
        files.mkdir()
        world = None

        def on_point() -> None:
            nonlocal tried
            tried += 1
            if world is None or tried % stride or not all(world.clients.values()):
                return
            world.snapshot(copies / str(tried))
            restarted = world.restarted_from(copies / str(tried))
            outcome = restarted.settle()
            restarted.close()
            assert isinstance(outcome, Completed)

        world = World(MODES[mode], files, "snapshot", on_point=on_point)
        world.settle()
        world.close()
    assert tried > 100


def run_child(directory: Path, mode: str, kill_at: int, seconds: float | None = None) -> tuple[int, str]:
    """Run a session in a child until it kills itself, or is killed a number of seconds after its beginning."""
    (directory / "files").mkdir()
    arguments: list[str | Path] = [directory / "files", directory / "log", mode, str(kill_at)]
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "tests.transport.crash_child", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        if seconds is not None:
            assert child.stdout.readline() == "begun\n"
            time.sleep(seconds)
            child.kill()
        output = child.stdout.read()
        return child.wait(), output


@pytest.mark.parametrize(("mode", "kill_at"), [("complete", 40), ("complete", 111), ("malicious sparse", 200)])
def test_a_process_that_kills_itself_at_an_operation(mode: str, kill_at: int) -> None:
    with journal_directory() as directory:
        code, _ = run_child(directory, mode, kill_at)
        assert code == -signal.SIGKILL
        assert isinstance(finish(directory / "files", mode, directory / "log"), Completed)


@pytest.mark.parametrize("seed", range(3))
def test_a_process_that_is_killed_at_any_time(seed: int) -> None:
    with journal_directory() as directory:
        code, output = run_child(directory, "complete", -1, random.Random(seed).uniform(0.0, 0.08))
        assert code == -signal.SIGKILL or output
        assert isinstance(finish(directory / "files", "complete", directory / "log"), Completed)
