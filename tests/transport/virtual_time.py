"""An event loop whose clock can jump over the time in which nothing happens; its sockets are real."""

import asyncio
import selectors

# Data under way over loopback arrives within this time, in real seconds.
_GRACE = 0.002


class _Skipping(selectors.DefaultSelector):
    """A selector that adds up the seconds that it skips."""

    is_skipping = False
    skipped = 0.0

    def select(self, timeout=None):
        if not self.is_skipping or timeout is None or timeout <= _GRACE:
            return super().select(timeout)
        ready = super().select(_GRACE)
        if not ready:
            self.skipped += timeout - _GRACE
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose clock is the real one until `pass_by`. Nothing may run in threads while time passes."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Return the real clock plus the skipped time."""
        return super().time() + self._skipping.skipped

    async def pass_by(self, seconds: float) -> None:
        """Sleep in virtual time: every timer that is due runs, and nothing really waits."""
        self._skipping.is_skipping = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self._skipping.is_skipping = False
