"""Where this user's record of what clients have taken part in is kept."""

import os

import platformdirs

from fl.errors import ConfigError
from transport import JournalError, Participation


def open_participation(folder: str | os.PathLike[str] | None = None) -> Participation:
    """The record in ``folder``; by default in the platform's folder for this user's state.

    On Linux that is ``~/.local/state/secagg``, or what ``XDG_STATE_HOME`` says. All processes that may act for one
    client have to share it.

    Raises:
        ConfigError: the folder cannot be made, is a link, or is open to others.
    """
    try:
        return Participation.in_folder(platformdirs.user_state_path("secagg") if folder is None else folder)
    except JournalError as error:
        raise ConfigError(f"no record can be kept of what this client takes part in: {error}") from None
