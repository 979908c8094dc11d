"""Honest sessions of a few kinds, to rebuild clients and servers in any phase, and to take messages from."""

from functools import cache
from typing import Any

from secagg import Adversary, Client, ClientPhase, Server
from tests.adversarial.adversary import LyingServer
from tests.support.sessions import AWAITED, make_params

ALICE = 1

KINDS = (
    make_params(4, 3, vector_length=3, adversary=Adversary.HONEST_BUT_CURIOUS),
    make_params(4, 3, vector_length=3, adversary=Adversary.MALICIOUS),
    make_params(7, 3, vector_length=3, degree=4, adversary=Adversary.SEMI_MALICIOUS),
    make_params(7, 3, vector_length=3, degree=4, adversary=Adversary.MALICIOUS),
    make_params(4, 3, vector_length=3, noise_components=2, adversary=Adversary.MALICIOUS),
)


class Recorded(LyingServer):
    """One finished session; ``blobs`` are the client Alice, suspended in each of her phases."""

    def __init__(self, kind: int) -> None:
        super().__init__(KINDS[kind % len(KINDS)], seed="fuzz")
        self.conclude()
        last = ClientPhase.SURVIVORS_SIGNED if self.params.is_signed else ClientPhase.FINISHED
        phases = (
            ClientPhase.CREATED,
            ClientPhase.ADVERTISED,
            ClientPhase.SHARED_KEYS,
            ClientPhase.INPUT_REQUESTED,
            ClientPhase.MASKED,
            last,
        )
        self.blobs = tuple(self.client_in(phase, ALICE).suspend() for phase in phases)
        self.client_messages = [said for of_type in self.sent.values() for said in of_type.values()]
        self.server_messages = [said for of_type in self.told.values() for said in of_type.values()]

    def keys(self) -> dict[str, Any]:
        """Return Alice's additional arguments in malicious mode."""
        return self.host_of(ALICE)

    def client(self, phase: int) -> Client:
        """Return Alice in one of her phases."""
        return Client.resume(self.blobs[phase % len(self.blobs)], **self.keys())

    def server_after(self, rounds: int) -> Server:
        """Return a server that has closed this number of rounds, or all but the last."""
        phases = [phase for phase, kind in AWAITED.items() if kind in self.sent]
        return self.server_in(phases[min(rounds, len(phases) - 1)])


@cache
def recorded(kind: int) -> Recorded:
    """Return the session of this kind."""
    return Recorded(kind)
