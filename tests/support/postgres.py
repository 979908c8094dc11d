"""A PostgreSQL server of the tests' own, from Debian's package, in a temporary folder and behind a Unix socket."""

import contextlib
import getpass
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transport.durable.postgres import PostgresStorage

_names = itertools.count()

# Debian keeps the server's programs outside the PATH.
_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs; None if it is not installed."""
    return shutil.which(name) or (shutil.which(name, path=str(_FOLDERS[-1])) if _FOLDERS else None)


@dataclass
class Cluster:
    """A running server; its folder belongs to the user that runs it."""

    folder: Path
    user: str
    is_other_user: bool

    def url(self, **more: str) -> str:
        """Return a connection string, with other or further parameters."""
        options = "&".join(
            f"{name}={value}" for name, value in {"host": str(self.folder), "user": self.user, **more}.items()
        )
        return f"postgresql:///postgres?{options}"

    def run(self, name: str, *arguments: str) -> None:
        path = program(name)
        assert path is not None
        subprocess.run(  # noqa: S603
            [path, *arguments],
            user=self.user if self.is_other_user else None,
            # Another user's supplementary groups are not ours.
            extra_groups=[] if self.is_other_user else None,
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c shared_buffers=16MB"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-o", options, "-l", f"{self.folder}/log", "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a server. PostgreSQL does not run as root: then the user postgres, whom the package makes, runs it."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgres]'")
    if program("initdb") is None:
        pytest.skip("there is no PostgreSQL server on this machine: apt-get install postgresql")
    is_root = os.getuid() == 0
    user = "postgres" if is_root else getpass.getuser()
    with tempfile.TemporaryDirectory(prefix="secagg-postgres-") as name:
        if is_root:
            shutil.chown(name, user)
        running = Cluster(Path(name), user, is_root)
        running.run("initdb", "-D", f"{name}/data", "--auth=trust", "-U", user, "--no-sync", "-E", "UTF8")
        running.start()
        try:
            yield running
        finally:
            running.stop("immediate")


def new_run() -> str:
    """Return a name that no other run in the database has."""
    return f"run {os.getpid()} {next(_names)}"


def leased(url: str, run: str) -> "PostgresStorage":
    """Open a run's journal ``j`` in a session of its own, which ends with the journal."""
    from transport.durable.postgres import PostgresStore

    store = PostgresStore(url, run, wait=20)
    storage = store.open("j")
    close = storage.close

    def close_both() -> None:
        close()
        store.close()

    storage.close = close_both
    return storage
