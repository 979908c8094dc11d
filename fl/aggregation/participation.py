"""The place of this user's record of the sessions in which clients took part."""

import os

import platformdirs

from fl.errors import ConfigError
from transport import JournalError, Participation


def open_participation(folder: str | os.PathLike[str] | None = None) -> Participation:
    """Open the record in ``folder``, by default in the platform's folder for this user's state.

    On Linux this is ``~/.local/state/secagg``, or a folder in ``XDG_STATE_HOME``. All processes that may act for one
    client must share it.

    Raises:
        ConfigError: the folder cannot be created, is a link, or is accessible to other users.
    """
    try:
        return Participation.in_folder(platformdirs.user_state_path("secagg") if folder is None else folder)
    except JournalError as error:
        raise ConfigError(f"cannot keep the record of this client's sessions: {error}") from None
