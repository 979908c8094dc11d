"""The operating system's errors in words."""

import errno

_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def in_words(error: OSError) -> str:
    """Say what could not be done, without the error's number."""
    said = error.strerror or str(error) or type(error).__name__
    if error.filename:
        return f"{error.filename}: {said}"
    # They come from files that are open already, stdout among them.
    return f"cannot write: {said}" if error.errno in _WRITING else said
