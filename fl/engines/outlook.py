"""The order in which clients are trained in advance, so that no worker waits and memory stays bounded.

The order in which clients answer is known only shortly in advance, as on a real network. Training in another order
would need memory for most clients' updates.
"""

from __future__ import annotations

import heapq

from fl.engines.local_worker import LocalWorker
from fl.learning.parameter_layout import ParameterLayout
from secagg import ClientId

_KEPT_BYTES = 256 << 20


def updates_kept(worker: LocalWorker, at_least: int) -> int:
    """Return how many updates of the worker's model are kept until they are asked for: 256 MiB, or ``at_least``."""
    return max(at_least, _KEPT_BYTES // max(1, 4 * ParameterLayout.of(worker.model).size))


class Outlook:
    """The clients of one round whose update was not asked for yet.

    A client is *kept* from the start of its training until its update is handed over.

    Args:
        expected: the clients that will be asked, in no special order. They are trained in advance only if all fit;
            otherwise the announced clients are, the earliest due first.
        capacity: maximum number of kept clients.
    """

    def __init__(self, expected: tuple[ClientId, ...], capacity: int) -> None:
        self._capacity = capacity
        self._guesses = list(reversed(expected)) if len(expected) <= capacity else []
        self._announced: list[tuple[float, ClientId]] = []
        self._begun: set[ClientId] = set()
        self._kept: set[ClientId] = set()

    def announce(self, client_id: ClientId, due: float) -> None:
        """Announce that the client will be asked for, after clients with a smaller ``due``."""
        heapq.heappush(self._announced, (due, client_id))

    def next(self) -> ClientId | None:
        """Begin and return the next client to train in advance; None if there is no client or no room."""
        if len(self._kept) >= self._capacity:
            return None
        while self._announced or self._guesses:
            client_id = heapq.heappop(self._announced)[1] if self._announced else self._guesses.pop()
            if client_id not in self._begun:
                self.begin(client_id)
                return client_id
        return None

    def begun(self, client_id: ClientId) -> bool:
        """Return whether the client's update is in training or ready."""
        return client_id in self._kept

    def begin(self, client_id: ClientId) -> None:
        """Mark the client as in training, even without room."""
        self._begun.add(client_id)
        self._kept.add(client_id)

    def handed_over(self, client_id: ClientId) -> None:
        """Mark the client's update as handed over, which makes room for another."""
        self._kept.discard(client_id)
