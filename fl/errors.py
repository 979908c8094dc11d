"""Errors of `fl` that the user can act on, and plain texts for the operating system's errors."""

import errno

from transport.errors import MAX_ERROR_TEXT, printable


class FLError(Exception):
    """Base of all errors that `fl/` raises on purpose; any other exception that escapes is a bug.

    Its text is safe to show: characters from a server or from another person's file are made printable.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), MAX_ERROR_TEXT)


class PublicError(FLError):
    """An error whose text may leave this machine: it holds names, shapes, types, counts and settings, but no values."""


class DataError(FLError):
    """A data set is missing, damaged, or does not match its description."""


class AbortedError(FLError):
    """All rounds of a training were aborted: too few clients stayed for a sum."""


class EngineError(FLError):
    """The processes or machines that train clients, or that run their part of the protocol, fail."""


class ConfigError(FLError):
    """Settings do not fit each other, the data or the model."""


_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def in_words(error: OSError) -> str:
    """Return the text of an operating system's error, without its number."""
    said = error.strerror or str(error) or type(error).__name__
    if error.filename:
        return f"{error.filename}: {said}"
    # Errors without a file name come from open files, such as stdout.
    return f"cannot write: {said}" if error.errno in _WRITING else said
