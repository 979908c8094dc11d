"""Files that are replaced in one step, so that a reader sees the old one or the new one; folders that are held."""

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
    """Write ``path``. OSError if that cannot be done; what was there then stays."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # A temporary file is for its owner's eyes only; results are as readable as what the user writes.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that the disk has no room."""
    while error is not None:
        if isinstance(error, JournalFullError) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
            return True
        error = error.__cause__
    return False


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Make a folder, if it is not there, and hold it for this process alone, by a lock on the file ``name`` in it.

    The system lets go of it when the process ends, however it ends. What a process that was killed left behind of
    `replace_file` is removed.

    Raises:
        ConfigError: another process holds it, or it cannot be written to.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        for part in folder.glob(f".*{_SUFFIX}"):
            part.unlink(missing_ok=True)
    except Timeout:
        raise ConfigError(
            f"{folder} is in use: another process goes on with its run; end that one first, or choose another folder"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    except NotImplementedError:
        raise ConfigError(f"{folder} is on a file system that has no locks: put it on a local disk") from None
    try:
        yield
    finally:
        lock.release()
