"""A server that lies: it talks to honest client machines, and keeps every message that they sent."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from secagg import Aborted, Adversary, ClientPhase, Completed, Identity, Parameters, RemoteProtocolError, Rule
from tests.support.sessions import Cohort, exact_sum, identity_of, make_params, random_inputs

CURIOUS, SEMI_MALICIOUS, MALICIOUS = Adversary
LYING = (SEMI_MALICIOUS, MALICIOUS)

# More than half of each secret's shares are needed, and some clients may vanish.
GRAPHS: dict[str, dict[str, int]] = {
    "complete": {"num_clients": 7, "threshold": 5, "noise_components": 3, "corrupt_clients": 2},
    "sparse": {"num_clients": 12, "degree": 6, "threshold": 4},
}


def params_of(adversary: Adversary = MALICIOUS, graph: str = "complete", **changes: int) -> Parameters:
    """Return the parameters of a small session of this kind."""
    return make_params(**{**GRAPHS[graph], "vector_length": 6, **changes}, adversary=adversary)


class LyingServer(Cohort):
    """A server in one session with honest clients; where it does not lie, a `secagg.Server` does the work.

    Args:
        params: the session's parameters.
        corrupt: clients whose secrets the server knows; their machines follow the protocol.
        uplink: maps a client's message to what the server's honest half receives: messages or bytes.
        contexts: the context of each client that got another one than ``context``.
        seed: seed of everyone's randomness.
    """

    def __init__(
        self,
        params: Parameters,
        *,
        corrupt: Collection[int] = (),
        uplink: Callable[[int, Any], Any] = lambda client_id, message: message,
        context: bytes = b"test",
        nonce: bytes = b"nonce",
        contexts: Mapping[int, bytes] | None = None,
        seed: str = "0",
    ) -> None:
        super().__init__(
            params,
            random_inputs(params, seed=sum(seed.encode())),
            uplink=uplink,
            context=context,
            nonce=nonce,
            client_contexts=contexts or {},
            entropy_seed=seed,
        )
        self.corrupt = frozenset(corrupt)
        self.honest = tuple(client_id for client_id in self.inputs if client_id not in self.corrupt)

    def until(self, kind: type) -> dict[int, Any]:
        """Play honestly up to the round that messages of this type open; return these messages, not yet sent."""
        if not self.sent:
            self.start()
        while self.end is None:
            letters = self.open()
            if any(isinstance(message, kind) for message in letters.values()):
                return letters
            self.deliver(letters)
        raise AssertionError(f"the session ended before {kind.__name__}: {self.end}")

    def conclude(self, downlink: Callable[[int, Any], Any] = lambda client_id, message: message) -> Completed | Aborted:
        """Play on to the end, changing messages to clients; return how the session ended."""
        self.downlink = downlink
        if not self.sent:
            self.start()
        while self.end is None:
            self.deliver(self.open())
        return self.end

    def signer(self, client_id: int) -> Identity:
        """Return the signing key of a corrupt client: its identity, or the key that it drew for the session."""
        return identity_of(client_id) if self.params.has_identities else Identity(self.entropy[client_id].draws[4])

    def assert_refused(self, client_id: int, *rules: Rule) -> None:
        """Assert that the client aborted because of one of these rules, and is dead."""
        error = self.refused[client_id]
        assert isinstance(error, RemoteProtocolError), error
        assert error.rule in rules
        assert self.clients[client_id].phase is ClientPhase.ABORTED

    def assert_exact(self, included: Iterable[int] | None = None) -> None:
        """Assert that the session ended with the exact sum over exactly these clients."""
        assert isinstance(self.end, Completed), self.end
        if included is not None:
            assert self.end.included == tuple(sorted(included))
        assert self.end.sum.tolist() == self.true_sum(self.end.included)

    def true_sum(self, client_ids: Iterable[int]) -> list[int]:
        return exact_sum(self.params, [self.inputs[client_id] for client_id in client_ids])


def as_ring(params: Parameters, vector: Iterable[int]) -> np.ndarray:
    """Return the vector reduced to the ring, as Python integers."""
    return np.array([int(element) % params.modulus for element in vector], dtype=object)
