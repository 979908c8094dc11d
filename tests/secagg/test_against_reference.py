"""Compare all that a session sends, bit for bit, with the slow implementation in `tests.reference`."""

from typing import Any

import msgpack
import numpy as np
import pytest

import secagg
from secagg import Adversary, Completed
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
from secagg.session import session_id
from tests import reference
from tests.secagg.machines import Script, numbers_of, sparse_script
from tests.support.sessions import (
    BEFORE_CONSISTENCY,
    BEFORE_INPUT,
    BEFORE_KEYS,
    BEFORE_SHARES,
    BEFORE_UNMASKING,
    exact_sum,
    identity_of,
    make_params,
)

MALICIOUS = Adversary.MALICIOUS

IDS = (4, 0, 2**32 - 1, 77, 256)

# The reference computes block by block in Python.
LONG = "more than a chunk of bytes"

SESSIONS = {
    "nobody vanishes": (make_params(5, 3, vector_length=9, value_bits=8), {}),
    "dropouts in every round": (
        make_params(5, 2, vector_length=50, value_bits=30),
        {4: BEFORE_KEYS, 77: BEFORE_SHARES, 256: BEFORE_INPUT},
    ),
    "one vanishes before unmasking": (make_params(5, 4, vector_length=1, value_bits=1), {0: BEFORE_UNMASKING}),
    "wraps in a ring of one bit": (make_params(5, 5, 100, value_bits=1, ring_bits=1, modular=True), {}),
    "wraps in the largest ring": (
        make_params(5, 3, 33, value_bits=64, ring_bits=64, modular=True),
        {77: BEFORE_INPUT, 0: BEFORE_INPUT},
    ),
    LONG: (make_params(5, 3, 2**18 + 5, value_bits=5), {256: BEFORE_INPUT}),
    "malicious, and nobody vanishes": (make_params(5, 3, vector_length=9, value_bits=8, adversary=MALICIOUS), {}),
    "malicious, with dropouts in every round": (
        make_params(5, 3, vector_length=20, value_bits=30, adversary=MALICIOUS),
        {77: BEFORE_SHARES, 256: BEFORE_INPUT},
    ),
    "malicious, and one vanishes before it signs": (
        make_params(5, 3, vector_length=3, value_bits=3, adversary=MALICIOUS),
        {2**32 - 1: BEFORE_CONSISTENCY, 4: BEFORE_INPUT},
    ),
    "malicious, and one vanishes once it has signed": (
        make_params(5, 4, vector_length=3, value_bits=3, adversary=MALICIOUS),
        {0: BEFORE_UNMASKING},
    ),
    "semi-malicious": (make_params(5, 3, adversary=Adversary.SEMI_MALICIOUS), {256: BEFORE_INPUT}),
    "noise components, and nobody vanishes": (make_params(5, 3, noise_components=3), {}),
    "noise components, with dropouts in every round": (
        make_params(5, 2, 4, noise_components=6, corrupt_clients=1),
        {4: BEFORE_KEYS, 77: BEFORE_SHARES, 256: BEFORE_INPUT},
    ),
    "noise components, malicious, and a survivor vanishes": (
        make_params(5, 4, noise_components=16, corrupt_clients=2, adversary=MALICIOUS),
        {0: BEFORE_UNMASKING},
    ),
    "noise components, semi-malicious": (
        make_params(5, 3, noise_components=4, adversary=Adversary.SEMI_MALICIOUS),
        {256: BEFORE_INPUT},
    ),
    "more than a chunk of eight-byte words": (make_params(5, 3, 2**15 + 1, value_bits=34), {4: BEFORE_INPUT}),
}


def record(name: str) -> Script:
    params, missing_from = SESSIONS[name]
    rng = np.random.default_rng(5)
    largest = (1 << params.value_bits) - 1
    inputs = {i: rng.integers(0, largest, params.vector_length, dtype=np.uint64, endpoint=True) for i in IDS}
    return Script(params, inputs, missing_from, seed=name)


class Replay:
    """A recorded session beside the reference's model of each client."""

    def __init__(self, recorded: Script) -> None:
        params = recorded.params
        self.params = params
        self.script = recorded
        self.nonce = b"nonce" if params.has_identities else b""
        self.session = reference.session_id(numbers_of(params), self.nonce, b"test")
        self.clients = {
            i: reference.Client(numbers_of(params), self.session, i, entropy.draws)
            for i, entropy in self.script.entropy.items()
            if entropy.draws
        }
        self.advertised = sorted(self.script.client_messages[AdvertiseKeys])
        self.shared = sorted(self.script.client_messages[ShareKeys])
        self.survivors = sorted(self.script.client_messages[MaskedInput])
        self.signers = sorted(self.script.client_messages[ConsistencyCheck])

    def identity(self, client_id: int) -> bytes:
        """Return the secret key that signs: the client's own, or that of this session."""
        return self.clients[client_id].session_identity or identity_of(client_id).to_bytes()

    def identity_key(self, client_id: int) -> bytes:
        return reference.ed25519_public(self.identity(client_id)) if self.params.is_signed else b""

    def keys_signature(self, client_id: int) -> bytes:
        if not self.params.is_signed:
            return b""
        return reference.ed25519_sign(self.identity(client_id), self.clients[client_id].keys_statement())

    def member(self, client_id: int) -> bytes:
        """Return the client's standing when the survivors are listed."""
        standing = (client_id in self.shared) + (client_id in self.survivors)
        return self.clients[client_id].view_member(self.identity_key(client_id), standing)

    def view_signature(self, client_id: int) -> bytes:
        neighbors = self.script.message(PeerKeys, client_id).client_ids
        statement = reference.view_statement(self.session, client_id, map(self.member, neighbors))
        return reference.ed25519_sign(self.identity(client_id), statement)

    def place(self, client_id: int) -> int:
        return self.advertised.index(client_id)

    def peers(self, client_id: int, among: list[int]) -> list[reference.Client]:
        return [self.clients[i] for i in among if i != client_id]


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name == LONG)) for name in SESSIONS]
)
def replay(request) -> Replay:
    return Replay(record(request.param))


def test_session_id(replay):
    assert replay.script.session_id == replay.session


def test_advertised_keys(replay):
    for client_id, message in replay.script.client_messages[AdvertiseKeys].items():
        model = replay.clients[client_id]
        assert message == AdvertiseKeys(
            replay.session,
            model.channel_public_key,
            model.mask_public_key,
            replay.identity_key(client_id),
            replay.keys_signature(client_id),
        )


def test_directory_of_keys(replay):
    models = [replay.clients[i] for i in replay.advertised]
    for message in replay.script.server_messages[PeerKeys].values():
        assert message.client_ids == tuple(replay.advertised)
        assert message.channel_public_keys == b"".join(model.channel_public_key for model in models)
        assert message.mask_public_keys == b"".join(model.mask_public_key for model in models)
        assert message.identity_keys == b"".join(map(replay.identity_key, replay.advertised))
        assert message.signatures == b"".join(map(replay.keys_signature, replay.advertised))


def test_encrypted_shares_as_sent(replay):
    for client_id, message in replay.script.client_messages[ShareKeys].items():
        model = replay.clients[client_id]
        assert message.seed_commitment == model.seed_commitment()
        assert message.encrypted_shares == b"".join(
            model.encrypted_share(peer, replay.place(peer.client_id))
            for peer in replay.peers(client_id, replay.advertised)
        )


def test_shares_of_noise_seeds_as_sent(replay):
    for client_id, message in replay.script.client_messages[ShareKeys].items():
        model = replay.clients[client_id]
        holders = [replay.clients[i] for i in replay.advertised]
        noisy = bool(replay.params.noise_components)
        assert message.noise_commitments == model.noise_commitments()
        assert message.noise_corrections == (model.noise_corrections(holders) if noisy else b"")


def test_pads_are_released_of_the_components_that_the_sum_does_not_need(replay):
    removed = reference.removed_components(numbers_of(replay.params), len(replay.survivors))
    for client_id, message in replay.script.client_messages[UnmaskingShares].items():
        held = [i for i, flag in zip(replay.advertised, message.held, strict=True) if flag and i in replay.survivors]
        pads = [replay.clients[owner].noise_pads(replay.clients[client_id]) for owner in held if removed]
        released = [word for of_owner in pads for component in removed for word in of_owner[component - 1]]
        assert message.noise_pads == b"".join(word.to_bytes(2, "big") for word in released)


def test_the_server_learns_the_noise_keys_of_these_components_alone(replay):
    removed = reference.removed_components(numbers_of(replay.params), len(replay.survivors))
    assert isinstance(replay.script.end, Completed)
    assert replay.script.end.noise_keys == {
        component: {i: replay.clients[i].noise_keys()[component - 1] for i in replay.survivors} for component in removed
    }


def test_encrypted_shares_as_delivered(replay):
    for client_id, message in replay.script.server_messages[PeerShares].items():
        assert message.shared == tuple(i in replay.shared for i in replay.advertised)
        assert message.encrypted_shares == b"".join(
            peer.encrypted_share(replay.clients[client_id], replay.place(client_id))
            for peer in replay.peers(client_id, replay.shared)
        )


def test_masked_inputs(replay):
    for client_id, message in replay.script.client_messages[MaskedInput].items():
        model, own_input = replay.clients[client_id], replay.script.inputs[client_id].tolist()
        expected = model.masked_input(own_input, replay.peers(client_id, replay.shared))
        assert message.masked_input.tolist() == expected


def test_masked_inputs_on_the_wire(replay):
    for message in replay.script.client_messages[MaskedInput].values():
        packed = reference.pack(message.masked_input.tolist(), replay.params.ring_bits)
        assert secagg.encode(message, replay.params) == msgpack.packb([1, 5, replay.session, packed])


def test_signatures_of_the_survivors(replay):
    checks = replay.script.client_messages[ConsistencyCheck]
    assert (set(checks) == set()) == (not replay.params.is_signed)
    for client_id, message in checks.items():
        assert message == ConsistencyCheck(replay.session, replay.view_signature(client_id))


def test_proofs_of_consistency(replay):
    for client_id, message in replay.script.server_messages[ConsistencyProof].items():
        assert message == ConsistencyProof(
            replay.session,
            tuple(i in replay.signers for i in replay.advertised),
            b"".join(replay.view_signature(i) for i in replay.signers if i != client_id),
        )


def test_the_signatures_and_proofs_of_a_sparse_session():
    """A peer's view has the flags of the common members, and the digests of the others in the order of their ids."""
    replay = Replay(sparse_script())
    checks, proofs = (replay.script.client_messages[ConsistencyCheck], replay.script.server_messages[ConsistencyProof])
    assert set(checks) == set(proofs) == set(replay.survivors)
    for client_id, message in checks.items():
        assert message.signature == replay.view_signature(client_id)
    neighbors_of = {i: replay.script.message(PeerKeys, i).client_ids for i in replay.advertised}
    for client_id, message in proofs.items():
        own = neighbors_of[client_id]
        peers = [i for i in own if i in replay.signers and i != client_id]
        common, others = b"", b""
        for peer in peers:
            bits = sum(1 << place for place, member in enumerate(own) if member in neighbors_of[peer])
            common += bits.to_bytes(1, "little")
            others += b"".join(replay.member(i) for i in neighbors_of[peer] if i not in own)
        signatures = b"".join(map(replay.view_signature, peers))
        flags = tuple(i in replay.signers for i in own)
        assert message == ConsistencyProof(replay.session, flags, signatures, common, others)


def test_released_shares(replay):
    """A survivor's self-mask share is released, or the mask-key share of a client that vanished; never both."""
    for client_id, message in replay.script.client_messages[UnmaskingShares].items():
        assert message.held == tuple(i in replay.shared for i in replay.advertised)
        survivors = replay.script.server_messages[SurvivorList][client_id].survivors
        assert survivors == tuple(i in replay.survivors for i in replay.advertised)
        expected = [
            replay.clients[owner].share(replay.place(client_id))[owner in replay.survivors] for owner in replay.shared
        ]
        assert message.shares.tolist() == expected


def test_the_sum_follows_from_what_was_sent(replay):
    """The sum follows from the released shares and masked inputs alone, by the paper: seeds, masks, sum."""
    params, ring_bits = replay.params, replay.params.ring_bits
    assert isinstance(replay.script.end, Completed)
    answers = replay.script.client_messages[UnmaskingShares]
    chosen = sorted(answers)[-params.threshold :]
    total = reference.ring_sum(
        (message.masked_input.tolist() for message in replay.script.client_messages[MaskedInput].values()), ring_bits
    )
    for row, owner in enumerate(replay.shared):
        seed = reference.reconstruct_seed([(replay.place(i), answers[i].shares[row].tolist()) for i in chosen])
        if owner in replay.survivors:
            key = reference.self_mask_key(seed, replay.session, owner)
            total = reference.add(total, reference.expand_mask(key, params.vector_length, ring_bits), ring_bits, -1)
            continue
        secret_key = reference.mask_secret_key(seed, replay.session, owner)
        for peer in replay.peers(owner, replay.survivors):
            key = reference.pairwise_mask_key(secret_key, peer.mask_public_key, replay.session, owner, peer.client_id)
            # A survivor with the smaller id added the mask: subtract it.
            sign = -1 if peer.client_id < owner else 1
            total = reference.add(total, reference.expand_mask(key, params.vector_length, ring_bits), ring_bits, sign)
    assert replay.script.end.sum.tolist() == total
    assert total == exact_sum(params, [replay.script.inputs[i] for i in replay.survivors])
    assert replay.script.end.included == tuple(replay.survivors)


@pytest.mark.parametrize("nonce", [b"", b"n", bytes(255)])
@pytest.mark.parametrize("context", [b"", b"c", bytes(1000)])
@pytest.mark.parametrize("modular", [False, True])
def test_session_ids_of_any_nonce_and_context(nonce, context, modular):
    params = make_params(300, 200, 2**20 + 1, value_bits=7, ring_bits=33, modular=modular)
    assert session_id(params, nonce=nonce, context=context) == reference.session_id(numbers_of(params), nonce, context)


def test_every_number_nonce_and_context_changes_the_session_id():
    base: dict[str, Any] = {
        "num_clients": 10,
        "threshold": 5,
        "degree": 6,
        "vector_length": 7,
        "value_bits": 8,
        "ring_bits": 20,
        "modular": False,
    }
    changes: list[dict[str, Any]] = [
        {"num_clients": 8},
        {"threshold": 4},
        {"degree": 8},
        {"vector_length": 8},
        {"value_bits": 9},
        {"ring_bits": 21},
        {"modular": True},
        {"adversary": Adversary.SEMI_MALICIOUS},
        {"degree": 9},
        {"degree": 9, "noise_components": 3},
        {"degree": 9, "noise_components": 4},
        {"degree": 9, "noise_components": 3, "corrupt_clients": 1},
    ]
    ids = {session_id(secagg.Parameters(**{**base, **change}), nonce=b"", context=b"") for change in [{}, *changes]}
    # Bytes that move from the nonce to the context must change the id.
    params = secagg.Parameters(**base)
    ids |= {session_id(params, nonce=n, context=c) for n, c in [(b"ab", b""), (b"a", b"b"), (b"", b"ab")]}
    assert len(ids) == len(changes) + 4
