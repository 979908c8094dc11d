"""That one state of a client is used once, on machines where several processes may hold it at the same time.

A client that is stored between messages lives in the framework's hands.  A server that may lie can send two messages
at once, and a framework that handles each in a process of its own gives both the same stored client: it would answer
both, which the client itself can never do.  Before a stored client answers, its state is claimed by a file that only
one process can create.
"""

import hashlib
import os
import tempfile
import time
from pathlib import Path

from fl.errors import ConfigError, FLError

_LABEL = b"secagg/fl/claim/1"

# No framework keeps a message for so long: what is older cannot be answered a second time.
_KEEP_SECONDS = 7 * 24 * 3600


class ClaimedError(FLError):
    """A state that was used before: somebody asks a client to answer twice."""


class Claims:
    """Claims in a folder of this user's own; all processes that may hold one client have to share it.

    Args:
        folder: made if it is not there; by default one for this user in the folder for temporary files.

    Raises:
        ConfigError: the folder cannot be made, or is not this user's own.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        owner = os.getuid() if hasattr(os, "getuid") else 0
        self._folder = Path(tempfile.gettempdir()) / f"secagg-claims-{owner}" if folder is None else Path(folder)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._folder.stat()
        except OSError as error:
            raise ConfigError(f"the folder for claims {self._folder} cannot be used: {error.strerror}") from None
        if hasattr(os, "getuid") and (status.st_uid != owner or status.st_mode & 0o022):
            raise ConfigError(f"the folder for claims {self._folder} must be this user's, and writable for nobody else")

    def claim(self, state: bytes) -> None:
        """Claim a state, of which only a hash is kept; ClaimedError if it was claimed before."""
        name = hashlib.sha256(_LABEL + state).hexdigest()
        try:
            os.close(os.open(self._folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            raise ClaimedError("this client's state was used before: it would answer twice, and does not") from None
        except OSError as error:
            raise ClaimedError(f"no claim could be made in {self._folder}: {error.strerror}") from None
        self._forget_old()

    def _forget_old(self) -> None:
        before = time.time() - _KEEP_SECONDS
        for file in self._folder.iterdir():
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
            except OSError:
                # Another process was faster.
                continue
