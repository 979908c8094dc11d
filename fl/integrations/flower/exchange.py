"""Messages out and replies in, over any grid: the only place that looks at a clock.

Flower's own `send_and_receive` waits three seconds between two looks for replies, which a protocol of four rounds pays
four times; so this pushes and pulls by itself.
"""

import time
from collections.abc import Iterable, Iterator

from fl.integrations.flower._flwr import Grid, Message


def exchange(
    grid: Grid, messages: Iterable[Message], *, timeout: float | None, poll_seconds: float
) -> Iterator[Message]:
    """Push the messages, and give the replies as they come, errors included, until all are in or the time is over.

    Args:
        grid: Flower's.
        messages: one a node.
        timeout: seconds; None: no limit.
        poll_seconds: between two looks.
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
