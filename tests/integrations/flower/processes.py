"""Flower's own programs as processes of a test: a SuperLink, SuperNodes, `flwr run`; all ended by their ids."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLE = REPOSITORY / "examples" / "flower_quickstart"
_BIN = Path(sys.executable).parent
_PATIENCE = 60.0


class Federation:
    """A SuperLink on loopback, with SuperNodes or the simulation behind it, and its own home.

    Args:
        folder: an empty folder for Flower's home, logs and the files of runs.
        nodes: SuperNodes, each a process that starts more for its apps; 0: the simulation engine.
    """

    def __init__(self, folder: Path, *, nodes: int = 0) -> None:
        self._folder = folder
        self._nodes = nodes
        self._processes: list[subprocess.Popen[bytes]] = []
        self._port = _free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))},
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(folder / "home"),
            # Apps may be the tests' own.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def __enter__(self) -> "Federation":
        home = self._folder / "home"
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "127.0.0.1:{self._port}"\ninsecure = true\n',
            encoding="utf-8",
        )
        try:
            self._start(
                "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self._port),
                *(() if self._nodes else ("--simulation",)),
            )  # fmt: skip
            self._await_superlink()
            for number in range(self._nodes):
                self.start_node(number)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def start_node(self, number: int) -> subprocess.Popen[bytes]:
        """Start one more SuperNode, with the part of the data of this number."""
        return self._start(
            f"node-{number}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self._port}",
            "--host", "127.0.0.1", "--port", str(_free_port()),
            "--node-config", f"partition-id={number} num-partitions={self._nodes}",
        )  # fmt: skip

    def run(self, app: Path, *, config: str = "", simulated: int = 0, timeout: float = 600) -> str:
        """Run `flwr run` to its end; return its output, or raise an AssertionError with it."""
        command = [str(_BIN / "flwr"), "run", str(app), "test", "--stream"]
        if config:
            command += ["--run-config", config]
        if simulated:
            command += ["--federation-config", f"num-supernodes={simulated} client-resources-num-cpus=1"]
        done = subprocess.run(  # noqa: S603 - Flower's program
            command,
            env=self.environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == 0, printed + self.logs()
        return printed

    def num_running(self) -> int:
        """Return how many programs have not ended: the SuperLink and SuperNodes."""
        return sum(process.poll() is None for process in self._processes)

    def logs(self) -> str:
        """Return the output of all processes."""
        texts = (path.read_text(encoding="utf-8", errors="replace") for path in sorted(self._folder.glob("*.log")))
        return "\n".join(texts)

    def _start(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - Flower's program
                [str(_BIN / program), *arguments],
                env=self.environment,
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own group, since it starts more processes, which are to end with it.
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def _await_superlink(self) -> None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if self._processes[0].poll() is not None:
                break
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=1).close()
                return
            time.sleep(0.2)
        raise AssertionError(f"the SuperLink did not start:\n{self.logs()}")

    def _end(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in reversed(self._processes):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
        self._processes.clear()


def copy_of_example(folder: Path) -> Path:
    """Copy the example to another folder: Flower rewrites what it runs."""
    app = folder / "app"
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
    return app


@contextlib.contextmanager
def federation(folder: Path, *, nodes: int = 0) -> Iterator[Federation]:
    """Start a `Federation`, and end it afterwards."""
    with Federation(folder, nodes=nodes) as up:
        yield up


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
