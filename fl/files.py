"""Replacement of files in one step, so that a reader sees the old or the new file, and locks on folders."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fl.errors import ConfigError
from transport import JournalFullError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SUFFIX = ".part"


def replace_file(path: Path, data: bytes) -> None:
    """Write ``path`` in one step. On OSError the old file stays."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # Temporary files are readable by their owner only; give results the permissions of the user's other files.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, says that the disk is full."""
    while error is not None:
        if isinstance(error, JournalFullError) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
            return True
        error = error.__cause__
    return False


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Create a folder if needed, and reserve it for this process by a lock on the file ``name`` in it.

    The system releases the lock when the process ends, also when it is killed. Temporary files that a killed process
    left in `replace_file` are removed.

    Raises:
        ConfigError: another process holds the lock, or the folder is not writable.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        for part in folder.glob(f".*{_SUFFIX}"):
            part.unlink(missing_ok=True)
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by another process: end that process first, or choose another folder"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    except NotImplementedError:
        raise ConfigError(f"{folder} is on a file system that has no locks: put it on a local disk") from None
    try:
        yield
    finally:
        lock.release()
