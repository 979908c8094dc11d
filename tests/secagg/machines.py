"""Machines halted in any phase, with their next messages, from one recorded session."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from secagg import Adversary, Client, ClientPhase, Parameters, Server, ServerPhase
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests import reference
from tests.secagg.object_graph import vector_encodings
from tests.support.sessions import (
    BEFORE_INPUT,
    Cohort,
    SeededEntropy,
    identity_of,
    make_params,
    random_inputs,
)

CLIENT_MESSAGES = (AdvertiseKeys, ShareKeys, MaskedInput, ConsistencyCheck, UnmaskingShares)
SERVER_MESSAGES = (PeerKeys, PeerShares, SurvivorList, ConsistencyProof)
ALL_MESSAGES = CLIENT_MESSAGES + SERVER_MESSAGES

SIGNED_MESSAGES = (ConsistencyCheck, ConsistencyProof)
"""Message types that exist only in sessions against a server that lies."""

CONTEXT = b"test"

HONEST, SEMI_MALICIOUS, MALICIOUS = Adversary
MODES = (HONEST, MALICIOUS)
"""Modes in which whole sessions are tested; the third mode has the messages of the second."""

# Parameters of the session of `script`.
PARAMS = make_params(5, 3, vector_length=40, value_bits=16)
SIGNED_PARAMS = replace(PARAMS, adversary=MALICIOUS)
IDS = (3, 17, 1000, 2**31, 2**32 - 1)

# Parameters of the session of `sparse_script`.
SPARSE_PARAMS = make_params(14, 4, vector_length=8, degree=6, adversary=MALICIOUS)
SPARSE_IDS = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 1000)

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
"""Encodings that are not public keys: every point of small order (all exchanges with it give zero), and encodings of a
number of 2^255 - 19 or more, which RFC 7748 would reduce."""


def numbers_of(params: Parameters) -> reference.Numbers:
    """Return the parameters in the form that the reference takes."""
    return reference.Numbers(
        params.num_clients,
        params.threshold,
        params.degree,
        params.vector_length,
        params.value_bits,
        params.ring_bits,
        params.modular,
        {HONEST: 0, SEMI_MALICIOUS: 1, MALICIOUS: 2}[params.adversary],
        params.noise_components,
        params.corrupt_clients,
    )


def kinds_of(adversary: Adversary, kinds: Collection[type] = ALL_MESSAGES) -> tuple[type, ...]:
    """Return those of these types that a session of this mode has."""
    return tuple(kind for kind in kinds if adversary is not HONEST or kind not in SIGNED_MESSAGES)


class Script(Cohort):
    """A recorded session, from which machines in any phase are rebuilt, and messages of each type taken.

    Clients draw from seeded sources, so that a rebuilt client has the same keys and the recorded messages fit it.
    """

    def __init__(self, params: Parameters, inputs: dict[int, np.ndarray], missing_from: dict[int, int], seed: str):
        super().__init__(params, inputs, missing_from, context=CONTEXT, entropy_seed=seed)
        self.run()
        self.kinds = kinds_of(params.adversary)

    @property
    def client_messages(self) -> dict[type, dict[int, Any]]:
        """Return the clients' messages of every type."""
        return {kind: self.sent.get(kind, {}) for kind in CLIENT_MESSAGES}

    @property
    def server_messages(self) -> dict[type, dict[int, Any]]:
        """Return the messages to clients, of every type."""
        return {kind: self.told.get(kind, {}) for kind in SERVER_MESSAGES}

    def message(self, kind: type, client_id: int) -> Any:
        """Return the client's message of this type, sent or received; another session's if this one has none."""
        if kind not in self.kinds:
            return replace(script(MALICIOUS).message(kind, client_id), session_id=self.session_id)
        return (self.sent | self.told)[kind][client_id]

    def client(self, phase: ClientPhase, client_id: int) -> tuple[Client, SeededEntropy]:
        """Return a client in the given phase, and its source of randomness."""
        entropy = self.source(client_id)
        return self.client_in(phase, client_id, entropy), entropy

    def secrets(self, client_id: int) -> dict[str, bytes | list[bytes]]:
        """Return all secrets of a client by name: what it drew, and what follows from that."""
        draws = self.entropy[client_id].draws
        models = {
            peer_id: reference.Client(numbers_of(self.params), self.session_id, peer_id, entropy.draws)
            for peer_id, entropy in self.entropy.items()
        }
        model = models[client_id]
        ids = self.message(PeerKeys, client_id).client_ids
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
        noise = zip(model.noise_seeds(), model.noise_keys(), strict=True)
        for component, (seed, key) in enumerate(noise, 1):
            secrets |= {f"seed of component {component}": seed, f"key of component {component}": key}
        if self.params.has_identities:
            secrets["identity's secret key"] = identity_of(client_id).to_bytes()
        for peer_id in ids:
            if peer_id != client_id:
                peer = models[peer_id]
                send_key, receive_key = model.channel_keys(peer_id, peer.channel_public_key)
                secrets |= {
                    f"pairwise mask key with {peer_id}": model.pairwise_mask_key(peer),
                    f"channel key to {peer_id}": send_key,
                    f"channel key from {peer_id}": receive_key,
                }
                if self.params.noise_components:
                    for component, pad in enumerate(model.noise_pads(peer), 1):
                        secrets[f"pad of {peer_id} for component {component}"] = _share_encodings(pad)
        return secrets


def _share_encodings(share: list[int]) -> list[bytes]:
    return vector_encodings(np.array(share, dtype=np.uint64))


@cache
def script(adversary: Adversary = HONEST) -> Script:
    """Return a session of five clients; one vanishes before its input, and three must remain."""
    params = replace(PARAMS, adversary=adversary)
    inputs = dict(zip(IDS, random_inputs(params, seed=11).values(), strict=True))
    return Script(params, inputs, {VANISHED: BEFORE_INPUT}, seed="script")


@cache
def noisy_script(adversary: Adversary = HONEST) -> Script:
    """Return a session with noise components, of which the sum needs some and not others."""
    params = replace(PARAMS, adversary=adversary, noise_components=3, corrupt_clients=0)
    inputs = dict(zip(IDS, random_inputs(params, seed=13).values(), strict=True))
    return Script(params, inputs, {VANISHED: BEFORE_INPUT}, seed="noisy script")


@cache
def sparse_script() -> Script:
    """Return a malicious session of fourteen clients with six neighbours each; one vanishes before its input."""
    inputs = dict(zip(SPARSE_IDS, random_inputs(SPARSE_PARAMS, seed=12).values(), strict=True))
    return Script(SPARSE_PARAMS, inputs, {VANISHED: BEFORE_INPUT}, seed="sparse script 5")


@dataclass(frozen=True)
class Halt:
    """A mode and a phase of its sessions: where a machine is halted."""

    adversary: Adversary
    phase: ClientPhase | ServerPhase

    @property
    def script(self) -> Script:
        return script(self.adversary)

    def client(self, client_id: int = ALICE) -> Client:
        return self.script.client(self.phase, client_id)[0]

    def server(self) -> Server:
        return self.script.server_in(self.phase)

    def __str__(self) -> str:
        return f"{self.adversary.value}, {self.phase.name}"


_SIGNED_PHASES = (ClientPhase.SURVIVORS_SIGNED, ServerPhase.CONSISTENCY_CHECK)


def halts(phases: Collection[ClientPhase] | Collection[ServerPhase]) -> list[Halt]:
    """Return a halt for each of these phases in each mode that has the phase."""
    return [
        Halt(mode, phase) for mode in Adversary for phase in phases if mode is not HONEST or phase not in _SIGNED_PHASES
    ]
