"""The database of a served run: another machine can go on with the run from it.

It holds the journals of the open round, and a copy of what a run is resumed from: its settings, its checkpoint after
the last round, and the ledger of a private run.  The run's folder is then a working copy: a process that resumes the
run writes its files anew.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fl.config.served import NETWORK_SETTINGS, ServeOptions
from fl.errors import ConfigError
from fl.files import replace_file
from fl.network.errors import NetworkError
from fl.network.session_files import FolderStore
from fl.privacy.ledger import LEDGER
from fl.runs.checkpoint import STATE_FILES
from transport.durable.storage import JournalStore
from transport.errors import JournalError

_FILES = (NETWORK_SETTINGS, *STATE_FILES)

# Says in a run's folder where its journals are: without them a round could be asked for a second time.
_PLACE = "journal.txt"

# A standby waits for as long as it is left to.
_FOREVER = float("inf")


@contextmanager
def opened(options: ServeOptions, folder: Path, say: Callable[[str], None]) -> Iterator[JournalStore]:
    """Return the place of the run's journals: its folder, or the database of ``--journal``, held for this process.

    Raises:
        ConfigError: psycopg is missing, the connection string holds a password, or the folder's run is in a database
            and none is given.
        NetworkError: the database cannot be used, or another process serves the run.
    """
    if options.journal is None:
        if (folder / _PLACE).exists():
            place = (folder / _PLACE).read_text().strip()
            raise ConfigError(f"the journals of the run in {folder} are not there, but in the {place}: give --journal")
        yield FolderStore(folder)
        return
    try:
        from transport.durable.postgres import PostgresStore
        from transport.durable.postgres_connection import holds_password
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--journal needs {error.name}: pip install '.[postgres]' in the repository's folder"
        ) from None
    run = options.journal_run or folder.resolve().name
    try:
        if holds_password(options.journal):
            raise ConfigError(
                "--journal holds a password, which other users see in the list of processes: put it into a password "
                "file (PGPASSFILE, ~/.pgpass) or a service file, and leave it out"
            )

        def waiting() -> None:
            say(f"another process serves the run {run!r}: waiting until it ends")

        store = PostgresStore(options.journal, run, wait=_FOREVER if options.standby else 0.0, waiting=waiting)
    except JournalError as error:
        advice = "" if options.standby or "is in use" not in str(error) else "; --standby waits for its end"
        raise NetworkError(f"{error}{advice}") from None
    with store:
        yield store


def check_new(store: JournalStore, folder: Path) -> None:
    """Raise ConfigError if the database holds a run already."""
    if not isinstance(store, FolderStore) and store.read(STATE_FILES[0]) is not None:
        raise ConfigError(
            f"the {store.name} exists already: go on with --resume {shlex.quote(str(folder))}, or choose another "
            "--journal-run"
        )


def keep(store: JournalStore, folder: Path) -> None:
    """Copy the run's state from its folder to the database; no round's journal is deleted before."""
    if isinstance(store, FolderStore):
        return
    replace_file(folder / _PLACE, f"{store.name}\n".encode())
    store.replace({name: (folder / name).read_bytes() for name in _FILES})
    keep_ledger(store, folder)


def keep_ledger(store: JournalStore, folder: Path) -> None:
    """Copy the ledger of a private run to the database, before a client learns of the session that was charged."""
    if not isinstance(store, FolderStore) and (folder / LEDGER).exists():
        store.replace({LEDGER: (folder / LEDGER).read_bytes()})


def fetch(store: JournalStore, folder: Path) -> None:
    """Write the run's state from the database into its folder. ConfigError if the database holds none."""
    if isinstance(store, FolderStore):
        return
    files = {name: store.read(name) for name in _FILES}
    if any(data is None for data in files.values()):
        raise ConfigError(f"there is no run to resume in the {store.name}: begin it with --out")
    if (ledger := store.read(LEDGER)) is not None:
        files[LEDGER] = ledger
    try:
        for name, data in files.items():
            assert data is not None  # noqa: S101 - checked above
            replace_file(folder / name, data)
        replace_file(folder / _PLACE, f"{store.name}\n".encode())
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error
