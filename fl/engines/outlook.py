"""Which client to train next, before it is asked for: so that nobody waits, and memory stays bounded.

In what order clients answer is known only a little ahead, as on a real network. Who trained them in another order
than they are asked for would have to keep the updates of most of them.
"""

from __future__ import annotations

import heapq

from fl.engines.local_worker import LocalWorker
from fl.learning.parameter_layout import ParameterLayout
from secagg import ClientId

_KEPT_BYTES = 256 << 20


def updates_kept(worker: LocalWorker, at_least: int) -> int:
    """How many updates of the worker's model are held before they are asked for: 256 MiB, but ``at_least`` some."""
    return max(at_least, _KEPT_BYTES // max(1, 4 * ParameterLayout.of(worker.model).size))


class Outlook:
    """The clients of one round whose update is yet to be asked for.

    A client is *kept* from when its training begins until its update is handed over.

    Args:
        expected: who will be asked, in no special order. They are trained ahead only if all fit in; otherwise those
            that are announced are, the earliest due first.
        capacity: how many clients may be kept.
    """

    def __init__(self, expected: tuple[ClientId, ...], capacity: int) -> None:
        self._capacity = capacity
        self._guesses = list(reversed(expected)) if len(expected) <= capacity else []
        self._announced: list[tuple[float, ClientId]] = []
        self._begun: set[ClientId] = set()
        self._kept: set[ClientId] = set()

    def announce(self, client_id: ClientId, due: float) -> None:
        """The client will be asked for, those with a smaller ``due`` before it."""
        heapq.heappush(self._announced, (due, client_id))

    def next(self) -> ClientId | None:
        """A client to train ahead, which counts as begun then; None if there is none, or no room."""
        if len(self._kept) >= self._capacity:
            return None
        while self._announced or self._guesses:
            client_id = heapq.heappop(self._announced)[1] if self._announced else self._guesses.pop()
            if client_id not in self._begun:
                self.begin(client_id)
                return client_id
        return None

    def begun(self, client_id: ClientId) -> bool:
        """Whether the client's update is being made, or lies ready."""
        return client_id in self._kept

    def begin(self, client_id: ClientId) -> None:
        """The client's training begins, room or not."""
        self._begun.add(client_id)
        self._kept.add(client_id)

    def handed_over(self, client_id: ClientId) -> None:
        """Whoever asked has it: there is room again."""
        self._kept.discard(client_id)
