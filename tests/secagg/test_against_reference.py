"""Everything that a session sends, bit for bit, against the slow implementation in `tests.reference`."""

import msgpack
import numpy as np
import pytest

import secagg
from secagg import Completed
from secagg.messages import AdvertiseKeys, MaskedInput, PeerKeys, PeerShares, ShareKeys, SurvivorList, UnmaskingShares
from secagg.session import session_id
from tests import reference
from tests.cohort import BEFORE_INPUT, BEFORE_KEYS, BEFORE_SHARES, BEFORE_UNMASKING, exact_sum, make_params
from tests.secagg.machines import Script, numbers_of

IDS = (4, 0, 2**32 - 1, 77, 256)

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
    "more than a chunk of bytes": (make_params(5, 3, 2**18 + 5, value_bits=5), {256: BEFORE_INPUT}),
    "more than a chunk of eight-byte words": (make_params(5, 3, 2**15 + 1, value_bits=34), {4: BEFORE_INPUT}),
}


class Replay:
    """A recorded session beside the reference's model of each client."""

    def __init__(self, name: str) -> None:
        params, missing_from = SESSIONS[name]
        rng = np.random.default_rng(5)
        largest = (1 << params.value_bits) - 1
        inputs = {i: rng.integers(0, largest, params.vector_length, dtype=np.uint64, endpoint=True) for i in IDS}
        self.params = params
        self.script = Script(params, inputs, missing_from, seed=name)
        self.session = reference.session_id(numbers_of(params), b"", b"test")
        self.clients = {
            i: reference.Client(numbers_of(params), self.session, i, entropy.draws)
            for i, entropy in self.script.cohort.entropy.items()
            if entropy.draws
        }
        self.advertised = sorted(self.script.client_messages[AdvertiseKeys])
        self.shared = sorted(self.script.client_messages[ShareKeys])
        self.survivors = sorted(self.script.client_messages[MaskedInput])

    def place(self, client_id: int) -> int:
        return self.advertised.index(client_id)

    def peers(self, client_id: int, among: list[int]) -> list[reference.Client]:
        return [self.clients[i] for i in among if i != client_id]


@pytest.fixture(scope="module", params=SESSIONS)
def replay(request) -> Replay:
    return Replay(request.param)


def test_session_id(replay):
    assert replay.script.session_id == replay.session


def test_advertised_keys(replay):
    for client_id, message in replay.script.client_messages[AdvertiseKeys].items():
        model = replay.clients[client_id]
        assert message == AdvertiseKeys(replay.session, model.channel_public_key, model.mask_public_key)


def test_directory_of_keys(replay):
    models = [replay.clients[i] for i in replay.advertised]
    for message in replay.script.server_messages[PeerKeys].values():
        assert message.client_ids == tuple(replay.advertised)
        assert message.channel_public_keys == b"".join(model.channel_public_key for model in models)
        assert message.mask_public_keys == b"".join(model.mask_public_key for model in models)


def test_encrypted_shares_as_sent(replay):
    for client_id, message in replay.script.client_messages[ShareKeys].items():
        model = replay.clients[client_id]
        assert message.encrypted_shares == b"".join(
            model.encrypted_share(peer, replay.place(peer.client_id))
            for peer in replay.peers(client_id, replay.advertised)
        )


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


def test_released_shares(replay):
    """Of a survivor the share of its self-mask seed, of one that vanished that of its mask key; never both."""
    for client_id, message in replay.script.client_messages[UnmaskingShares].items():
        assert message.held == tuple(i in replay.shared for i in replay.advertised)
        survivors = replay.script.server_messages[SurvivorList][client_id].survivors
        assert survivors == tuple(i in replay.survivors for i in replay.advertised)
        expected = [
            replay.clients[owner].share(replay.place(client_id))[owner in replay.survivors] for owner in replay.shared
        ]
        assert message.shares.tolist() == expected


def test_the_sum_follows_from_what_was_sent(replay):
    """From the released shares and masked inputs alone, by the paper: seeds, then masks, then the sum."""
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
            # The survivor added the mask if its id is the smaller one: then it is taken off.
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
    base = {
        "num_clients": 10,
        "threshold": 3,
        "degree": 6,
        "vector_length": 7,
        "value_bits": 8,
        "ring_bits": 20,
        "modular": False,
    }
    changes = [
        {"num_clients": 8},
        {"threshold": 4},
        {"degree": 4},
        {"vector_length": 8},
        {"value_bits": 9},
        {"ring_bits": 21},
        {"modular": True},
    ]
    ids = {session_id(secagg.Parameters(**{**base, **change}), nonce=b"", context=b"") for change in [{}, *changes]}
    # Bytes that move from the nonce to the context must not go unseen.
    params = secagg.Parameters(**base)
    ids |= {session_id(params, nonce=n, context=c) for n, c in [(b"ab", b""), (b"a", b"b"), (b"", b"ab")]}
    assert len(ids) == len(changes) + 4
