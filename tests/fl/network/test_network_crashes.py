"""One folder, one server; and a server that is killed at any moment of its first start can be started again."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl.errors import ConfigError
from fl.network.server import resume_serving, start_serving
from fl.runs.checkpoint import RunFolder
from tests.fl.network.crashing import WITHOUT_END, nursery
from tests.fl.network.harness import _FORKED, Client, Deployment
from tests.fl.runs import tiny_config
from transport.certificates.authority import Authority

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


@pytest.fixture
def exit_code(tmp_path: Path) -> Iterator[Callable[[Path, int], int]]:
    """Run a server on a folder until it listens or is killed; return its exit code."""
    Authority.create(tmp_path / "certs").issue(server_names=["localhost", "127.0.0.1"], client_ids=range(3))
    ours, theirs = multiprocessing.Pipe()
    process = _FORKED.Process(target=nursery, args=(theirs, tmp_path / "certs"), daemon=True)
    process.start()
    theirs.close()

    def run(folder: Path, killed_at: int) -> int:
        ours.send((folder, killed_at))
        assert ours.poll(60)
        return int(ours.recv())

    yield run
    ours.close()
    process.join(10)
    process.kill()
    process.join(10)


def test_a_start_that_is_killed_at_any_moment_is_started_again_by_the_same_command(
    tmp_path: Path, exit_code: Callable[[Path, int], int]
) -> None:
    moment = 0
    while True:
        moment += 1
        run = tmp_path / f"run-{moment}"
        first = exit_code(run, moment)
        assert first in (-signal.SIGKILL, 0), moment
        assert exit_code(run, WITHOUT_END) == 0, (moment, sorted(path.name for path in run.iterdir()))
        assert RunFolder(run).load_config() == (tiny_config(clients=3, rounds=2, adversary="malicious").settled(), 0)
        assert not list(run.glob(".*.part"))
        if first == 0:
            break
    # The folder, its lock, and at least three changes for each file: it was killed in between.
    assert moment > 2 + 3 * 4


def test_a_folder_has_one_server_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second server begins or resumes the run; the first continues undisturbed, to an exact end."""
    deployment = Deployment(tmp_path, monkeypatch)
    config = deployment.config(rounds=1)
    folder = tmp_path / "run"

    def beside() -> None:
        kept = (folder / "checkpoint.safetensors").read_bytes()
        others = deployment.options(address=("127.0.0.1", 0))
        with pytest.raises(ConfigError, match=f"{folder} is in use by another process"):
            resume_serving(folder, None, None, others, deployment.console())
        with pytest.raises(ConfigError, match=f"{folder} is in use by another process"):
            start_serving(config, folder, None, others, deployment.console())
        assert (folder / "checkpoint.safetensors").read_bytes() == kept
        clients: list[Client] = [deployment.client(i, config) for i in range(3)]
        for client in clients:
            client.start()
        for client in clients:
            client.finish()

    finished = deployment.run_beside(config, beside)
    assert finished.summary["included"] == [3]
    # No process holds it any more.
    assert resume_serving(folder, 1, None, deployment.options(), deployment.console()).summary["included"] == [3]
