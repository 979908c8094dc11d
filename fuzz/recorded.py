"""Honest sessions of a few kinds, from which machines in any phase are rebuilt, and messages taken."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import secagg
from secagg import Adversary, Client, Server
from secagg.messages import AdvertiseKeys, ConsistencyCheck, MaskedInput, PeerKeys, PeerShares, ShareKeys, SurvivorList
from tests.adversarial.adversary import LyingServer
from tests.support.sessions import directory_of, identity_of, make_params, seeded_entropy

ALICE = 1

KINDS = (
    make_params(4, 3, vector_length=3, adversary=Adversary.HONEST_BUT_CURIOUS),
    make_params(4, 3, vector_length=3, adversary=Adversary.MALICIOUS),
    make_params(7, 3, vector_length=3, degree=4, adversary=Adversary.SEMI_MALICIOUS),
    make_params(7, 3, vector_length=3, degree=4, adversary=Adversary.MALICIOUS),
)

# What clients send, round by round, and what brings a client from each phase to the next.
ROUNDS = (AdvertiseKeys, ShareKeys, MaskedInput, ConsistencyCheck)
STEPS = (PeerKeys, PeerShares, SurvivorList)


@dataclass(frozen=True)
class Recorded:
    """One session; ``blobs`` are Alice suspended in each of her phases."""

    params: secagg.Parameters
    heard: dict[type, dict[int, Any]]
    told: dict[type, dict[int, Any]]
    blobs: tuple[bytes, ...]

    @property
    def client_messages(self) -> list[Any]:
        return [said for of_type in self.heard.values() for said in of_type.values()]

    @property
    def server_messages(self) -> list[Any]:
        return [said for of_type in self.told.values() for said in of_type.values()]

    def keys(self, client_id: int = ALICE) -> dict[str, Any]:
        """What a client of the malicious mode is given."""
        if not self.params.has_identities:
            return {}
        return {"identity": identity_of(client_id), "directory": directory_of(range(self.params.num_clients))}

    def client(self, phase: int) -> Client:
        """Alice, in one of her phases."""
        return Client.resume(self.blobs[phase % len(self.blobs)], **self.keys())

    def server(self, phase: int) -> Server:
        """A server that has closed so many rounds and got no message since."""
        directory = {"directory": directory_of(range(self.params.num_clients))} if self.params.has_identities else {}
        server = Server(self.params, context=b"test", nonce=b"nonce", **directory, entropy=seeded_entropy("fuzz/S"))
        for kind in [kind for kind in ROUNDS if kind in self.heard][:phase]:
            for client_id, message in self.heard[kind].items():
                server.receive(client_id, message)
            server.close_round()
        return server


@cache
def recorded(kind: int) -> Recorded:
    """The session of this kind."""
    params = KINDS[kind % len(KINDS)]
    session = LyingServer(params, seed="fuzz")
    session.conclude()
    record = Recorded(params, session.heard, session.told, ())
    blobs = []
    for steps in range(len(STEPS) + 2):
        for stop_before_input in (True, False):
            client = _alice(record, session, steps, stop_before_input=stop_before_input)
            if client is not None and (blob := client.suspend()) not in blobs:
                blobs.append(blob)
    return Recorded(params, session.heard, session.told, tuple(blobs))


def _alice(record: Recorded, session: LyingServer, steps: int, *, stop_before_input: bool) -> Client | None:
    """Alice after so many messages; None if there is no such phase."""
    client = Client(
        record.params, ALICE, context=b"test", nonce=b"nonce", **record.keys(), entropy=seeded_entropy(f"fuzz/{ALICE}")
    )
    if not steps:
        return client
    client.start()
    for kind in STEPS[: steps - 1]:
        client.receive(record.told[kind][ALICE])
        if kind is PeerShares:
            if stop_before_input:
                return client
            client.submit_input(session.inputs[ALICE])
    return client
