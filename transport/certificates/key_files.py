"""Files with a secret key, and one check of their permissions for all of them."""

import os
import stat
from pathlib import Path

MAX_KEY_FILE_BYTES = 1 << 16


def read_key_file(path: Path, raises: type[Exception]) -> bytes:
    """Return the content of a file with a secret key.

    The file must belong to this user, and nobody else may read or write it. If it belongs to root and this user is
    another one, a group may read it, since systemd and Kubernetes give secrets to services in this way. Links are
    followed for the same reason.

    Args:
        path: the file.
        raises: the error to raise if the file does not exist, is not a file, or is open to others; its text says what
            to do.
    """
    try:
        # Do not wait for a pipe.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            problem = _problem(os.fstat(file.fileno()))
            content = b"" if problem else file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise raises(f"the key file {path} cannot be used: {error.strerror or error}") from None
    if len(content) > MAX_KEY_FILE_BYTES:
        problem = f"is not a key: it has more than {MAX_KEY_FILE_BYTES} bytes"
    if problem:
        raise raises(f"the key file {path} {problem}")
    return content


def _problem(status: os.stat_result) -> str | None:
    """Return the fault of a key file; None if it has none."""
    if not stat.S_ISREG(status.st_mode):
        return "must be a regular file"
    if not hasattr(os, "getuid"):
        return None  # Windows has no such permissions
    is_own = status.st_uid == os.getuid()
    if not is_own and status.st_uid != 0:
        return f"belongs to another user (uid {status.st_uid}), who could replace it: chown it to this process's user"
    if status.st_mode & (0o077 if is_own else 0o037):
        return "must be readable by its owner alone: chmod 600 it if nobody has seen it, or else make a new key"
    return None
