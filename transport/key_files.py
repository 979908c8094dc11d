"""Files that hold a secret key: who may read them is asked in one way for all of them."""

import os
import stat
from pathlib import Path

MAX_KEY_FILE_BYTES = 1 << 16


def read_key_file(path: Path, raises: type[Exception]) -> bytes:
    """The content of a file that holds a secret key.

    It has to be this user's, and nobody else may read or write it. Where root hands it to another user, a group may
    read it: so do systemd and Kubernetes give secrets to a service. Links are followed, for the same reason.

    Args:
        path: the file.
        raises: what to raise, with a text that says what to do: the file is not there, is none, or is open to others.
    """
    try:
        # A pipe is not waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            problem = _problem(os.fstat(file.fileno()))
            content = b"" if problem else file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise raises(f"the key file {path} cannot be used: {error.strerror or error}") from None
    if len(content) > MAX_KEY_FILE_BYTES:
        problem = f"is no key: it has more than {MAX_KEY_FILE_BYTES} bytes"
    if problem:
        raise raises(f"the key file {path} {problem}")
    return content


def _problem(status: os.stat_result) -> str | None:
    """What is wrong with a key file, if anything is."""
    if not stat.S_ISREG(status.st_mode):
        return "must be a regular file"
    if not hasattr(os, "getuid"):
        return None  # Windows keeps this elsewhere
    is_own = status.st_uid == os.getuid()
    if not is_own and status.st_uid != 0:
        return f"is another user's (uid {status.st_uid}), who could exchange it: chown it to this process's user"
    if status.st_mode & (0o077 if is_own else 0o037):
        return "must be readable by its owner alone: chmod 600 it if nobody has seen it, or else make a new key"
    return None
