"""Machines halted in any phase, with the messages that they would get next, from one recorded session."""

from functools import cache

import numpy as np

import secagg
from secagg import Client, ClientPhase, Parameters, Server, ServerPhase
from secagg.messages import (
    AdvertiseKeys,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests import reference
from tests.cohort import BEFORE_INPUT, Cohort, SeededEntropy, make_params, random_inputs
from tests.secagg.object_graph import vector_encodings

CLIENT_MESSAGES = (AdvertiseKeys, ShareKeys, MaskedInput, UnmaskingShares)
SERVER_MESSAGES = (PeerKeys, PeerShares, SurvivorList)
ALL_MESSAGES = CLIENT_MESSAGES + SERVER_MESSAGES

CONTEXT = b"test"

# The session of `script`.
PARAMS = make_params(5, 3, vector_length=40, value_bits=16)
IDS = (3, 17, 1000, 2**31, 2**32 - 1)

ALICE = 17
"""The client under test: neither the first nor the last on the list."""

VANISHED = 1000
"""The client that sends no input."""


PRIME_25519 = 2**255 - 19

_BAD_COORDINATES = {
    "order 4": 0,
    "order 1": 1,
    "order 8, first": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "order 8, second": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    "order 2": PRIME_25519 - 1,
    "zero, not canonical": PRIME_25519,
    "one, not canonical": PRIME_25519 + 1,
    "the base point, not canonical": PRIME_25519 + 9,
    "the base point with the unused bit": 9 + 2**255,
    "zero with the unused bit": 2**255,
    "all ones": 2**256 - 1,
}

BAD_POINTS = {name: u.to_bytes(32, "little") for name, u in _BAD_COORDINATES.items()}
"""Encodings that are no public key: every point of small order (all exchanges with it give zero), and encodings of a
number of 2^255 - 19 or more, which RFC 7748 would reduce."""


def numbers_of(params: Parameters) -> reference.Numbers:
    """The parameters as the reference takes them."""
    return reference.Numbers(
        params.num_clients,
        params.threshold,
        params.degree,
        params.vector_length,
        params.value_bits,
        params.ring_bits,
        params.modular,
    )


class Script:
    """A recorded session, from which machines in any phase are rebuilt, and messages of each type taken.

    Clients draw from seeded sources, so that a rebuilt client has the same keys and the recorded messages fit it.
    """

    def __init__(self, params: Parameters, inputs: dict[int, np.ndarray], missing_from: dict[int, int], seed: str):
        self.params = params
        self.inputs = inputs
        self.client_messages: dict[type, dict[int, object]] = {kind: {} for kind in CLIENT_MESSAGES}
        self.server_messages: dict[type, dict[int, object]] = {kind: {} for kind in SERVER_MESSAGES}
        self._seed = seed

        def keep(messages):
            def hook(client_id, message):
                messages[type(message)][client_id] = message
                return message

            return hook

        self.cohort = Cohort(
            params,
            inputs,
            missing_from,
            uplink=keep(self.client_messages),
            downlink=keep(self.server_messages),
            context=CONTEXT,
            entropy_seed=seed,
        )
        self.end = self.cohort.run().end
        self.session_id = self.cohort.server.session_id

    def message(self, kind: type, client_id: int):
        """The message of this type that the client sent or got."""
        return {**self.client_messages, **self.server_messages}[kind][client_id]

    def client(self, phase: ClientPhase, client_id: int) -> tuple[Client, SeededEntropy]:
        """A client in the given phase, and its source of randomness."""
        entropy = SeededEntropy(f"{self._seed}/{client_id}")
        client = Client(self.params, client_id, context=CONTEXT, entropy=entropy)
        steps = {
            ClientPhase.ADVERTISED: client.start,
            ClientPhase.SHARED_KEYS: lambda: client.receive(self.message(PeerKeys, client_id)),
            ClientPhase.INPUT_REQUESTED: lambda: client.receive(self.message(PeerShares, client_id)),
            ClientPhase.MASKED: lambda: client.submit_input(self.inputs[client_id]),
            ClientPhase.FINISHED: lambda: client.receive(self.message(SurvivorList, client_id)),
        }
        if phase is ClientPhase.ABORTED:
            client.start()
            client.abort()
        elif phase is ClientPhase.SUSPENDED:
            client.start()
            client.suspend()
        elif phase is not ClientPhase.CREATED:
            for reached, step in steps.items():
                step()
                if reached is phase:
                    break
        assert client.phase is phase
        return client, entropy

    def server(self, phase: ServerPhase) -> Server:
        """A server in the given phase, which has got no message of that phase's round."""
        server = Server(self.params, self.inputs.keys(), context=CONTEXT)
        if phase is ServerPhase.ABORTED:
            server.abort()
        rounds = {
            ServerPhase.ADVERTISE_KEYS: AdvertiseKeys,
            ServerPhase.SHARE_KEYS: ShareKeys,
            ServerPhase.MASKED_INPUT_COLLECTION: MaskedInput,
            ServerPhase.UNMASKING: UnmaskingShares,
        }
        while server.phase is not phase:
            if server.phase is ServerPhase.RECOVERY:
                server.finish(self.job.run())
                continue
            for client_id, message in self.client_messages[rounds[server.phase]].items():
                assert server.receive(client_id, message) == ()
            *_, self.last_event = server.close_round()
        return server

    @property
    def job(self) -> secagg.UnmaskJob:
        """The job of the server that was last taken to RECOVERY or beyond."""
        return self.last_event.job

    def secrets(self, client_id: int) -> dict[str, bytes | list[bytes]]:
        """Everything of a client that nobody else may see, by name: what it drew, and what follows from that."""
        draws = self.cohort.entropy[client_id].draws
        models = {
            peer_id: reference.Client(numbers_of(self.params), self.session_id, peer_id, entropy.draws)
            for peer_id, entropy in self.cohort.entropy.items()
        }
        model = models[client_id]
        ids = sorted(models)
        own_share = model.share(ids.index(client_id))
        secrets: dict[str, bytes | list[bytes]] = {f"draw {number}": draw for number, draw in enumerate(draws)}
        coefficients = reference.derive(
            model.sharing_seed, self.session_id, b"secagg/1 sharing coefficients", reference.id_bytes(client_id), 16
        )
        secrets |= {
            "mask secret key": model.mask_secret_key,
            "key of the coefficients": coefficients,
            "coefficients": reference.chunked_keystream(coefficients, 64),
            "self mask key": reference.self_mask_key(model.self_mask_seed, self.session_id, client_id),
            "self mask": vector_encodings(np.array(model.self_mask(), dtype=np.uint64)),
            "input": vector_encodings(self.inputs[client_id]),
            "packed input": reference.pack(self.inputs[client_id].tolist(), self.params.ring_bits),
            "own share of mask key": _share_encodings(own_share[0]),
            "own share of self mask": _share_encodings(own_share[1]),
        }
        for peer_id, peer in models.items():
            if peer_id != client_id:
                send_key, receive_key = model.channel_keys(peer_id, peer.channel_public_key)
                secrets |= {
                    f"pairwise mask key with {peer_id}": model.pairwise_mask_key(peer),
                    f"channel key to {peer_id}": send_key,
                    f"channel key from {peer_id}": receive_key,
                }
        return secrets


def _share_encodings(share: list[int]) -> list[bytes]:
    return vector_encodings(np.array(share, dtype=np.uint64))


@cache
def script() -> Script:
    """Five clients of which one vanishes before its input; three must remain."""
    inputs = dict(zip(IDS, random_inputs(PARAMS, seed=11).values(), strict=True))
    return Script(PARAMS, inputs, {VANISHED: BEFORE_INPUT}, seed="script")
