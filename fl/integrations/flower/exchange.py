"""Send messages and collect replies over any grid; this is the only module that reads a clock.

Flower's own `send_and_receive` polls for replies every three seconds, which a protocol of four rounds pays four times.
So this module pushes and pulls by itself.
"""

import time
from collections.abc import Iterable, Iterator

from fl.integrations.flower._flwr import Grid, Message


def exchange(
    grid: Grid, messages: Iterable[Message], *, timeout: float | None, poll_seconds: float
) -> Iterator[Message]:
    """Push the messages; yield the replies, errors included, as they come, until all are in or the time is over.

    Args:
        grid: Flower's grid.
        messages: one for each node.
        timeout: in seconds; None: no limit.
        poll_seconds: seconds between two polls.
    """
    awaited = set(grid.push_messages(messages))
    deadline = None if timeout is None else time.monotonic() + timeout
    while awaited:
        for reply in list(grid.pull_messages(list(awaited))):
            awaited.discard(reply.metadata.reply_to_message_id)
            yield reply
        if not awaited or (deadline is not None and time.monotonic() >= deadline):
            return
        time.sleep(poll_seconds)
