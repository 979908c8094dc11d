"""Errors of `fl` that the user can act on, and the operating system's errors in words."""

import errno

from transport.errors import MAX_ERROR_TEXT, printable


class FLError(Exception):
    """Base of every error that `fl/` raises on purpose; anything else that escapes is a bug.

    Its text can be shown as it is: what a server, or a file of somebody else's, wrote into it is made printable.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), MAX_ERROR_TEXT)


class PublicError(FLError):
    """An error whose text may leave this machine: it names names, shapes, types, counts and settings, and no value."""


class DataError(FLError):
    """A data set is missing, damaged, or not what it says it is."""


class AbortedError(FLError):
    """A training whose rounds were all aborted: too few clients stayed for a single sum."""


class EngineError(FLError):
    """Clients cannot be trained, and not for a reason of theirs: the processes or machines that train them fail."""


class ConfigError(FLError):
    """Settings that do not fit each other, the data or the model."""


_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def in_words(error: OSError) -> str:
    """Say what could not be done, without the error's number."""
    said = error.strerror or str(error) or type(error).__name__
    if error.filename:
        return f"{error.filename}: {said}"
    # They come from files that are open already, stdout among them.
    return f"cannot write: {said}" if error.errno in _WRITING else said
