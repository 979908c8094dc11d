"""The masked inputs that a front has added, and not handed over yet. Sans-IO."""

import numpy as np

from secagg import ClientId, Parameters
from secagg.algebra import ring
from secagg.algebra.ring import RingVector
from transport.fronts.items import Partial

# A partial sum goes when nothing more arrives, and at the latest after this time: seconds, and bytes of the vector a
# second, which the coordinator adds and writes to its disk.
_SECONDS = 0.1
_BYTES_PER_SECOND = 2**25


class HeldInputs:
    """One running sum, and the sums that the coordinator has not confirmed: each is one vector, whatever its clients.

    Args:
        params: the session's parameters.
    """

    def __init__(self, params: Parameters) -> None:
        self._params = params
        self._sum: RingVector | None = None
        self._clients: dict[ClientId, tuple[int, bytes]] = {}
        self._since = 0.0
        self._number = 0
        self.given: dict[int, Partial] = {}
        size = params.vector_length * ring.word_dtype(params.ring_bits).itemsize
        self._seconds = max(_SECONDS, size / _BYTES_PER_SECOND)

    def __len__(self) -> int:
        return len(self._clients) + sum(len(partial.clients) for partial in self.given.values())

    def has(self, client_id: ClientId) -> bool:
        """Return whether a client's input is in the running sum."""
        return client_id in self._clients

    def add(self, client_id: ClientId, lease: int, digest: bytes, vector: RingVector, now: float) -> None:
        """Add a client's masked input, which has the length and dtype of the session."""
        if self._sum is None:
            self._sum = ring.zeros(self._params.vector_length, self._params.ring_bits)
            self._since = now
        np.add(self._sum, vector, out=self._sum)
        self._clients[client_id] = lease, digest

    @property
    def deadline(self) -> float | None:
        """Return the time at which the running sum must be handed over; None if it is empty."""
        return None if self._sum is None else self._since + self._seconds

    def hand_over(self) -> Partial | None:
        """Return the running sum and begin a new one; None if it is empty."""
        if self._sum is None:
            return None
        self._number += 1
        partial = self.given[self._number] = Partial(self._number, self._clients, self._sum)
        self._sum, self._clients = None, {}
        return partial
