"""Work that a cancellation must not interrupt."""

import asyncio
import contextlib
from typing import TypeVar

_T = TypeVar("_T")


async def uninterrupted(work: "asyncio.Future[_T]") -> _T:
    """Return the result of ``work``; a cancellation takes effect once it is done."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((work,))
        work.exception()
        raise
