"""Count the bytes that one client sends and receives in a session, from encoded messages.

The client is real.  Its peers consist of the data that it sees of them: real public keys, and ciphertexts under real
channel keys of uniform field elements, since the Shamir share of one holder is uniform.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from secagg import Client, Parameters, Round, Send, decode_server_message, encode
from secagg.algebra import ring
from secagg.algebra.field import PRIME
from secagg.messages import AdvertiseKeys, MaskedInput, Message, PeerKeys, PeerShares, SurvivorList
from secagg.primitives.agreement import KEY_BYTES, SecretKey
from secagg.sharing import LIMBS, ShareChannel, shares_to_bytes
from transport import encode_frame

# Up to this many words of keystream the client masks a real input; above, a uniform vector replaces the result.
_MOST_WORDS = 1 << 31


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one client's frames, by round and direction, without dropouts."""

    up: dict[str, int]
    down: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.up.values()) + sum(self.down.values())


class Peers:
    """The keys of up to ``count`` other clients, made once for all sessions of one run; ids from 1."""

    def __init__(self, count: int) -> None:
        self.channel_keys = [SecretKey(os.urandom(KEY_BYTES)) for _ in range(count)]
        self.channel_public_keys = [key.public_key() for key in self.channel_keys]
        self.mask_public_keys = [SecretKey(os.urandom(KEY_BYTES)).public_key() for _ in range(count)]


def traffic(params: Parameters, peers: Peers) -> Traffic:
    """Run client 0 through a session with ``params.degree`` peers, all of which survive."""
    # Only one message depends on the vector's length; with a short vector the others need no gigabytes of keystream.
    masks_really = params.vector_length * (params.degree + 1) <= _MOST_WORDS
    small = params if masks_really else replace(params, vector_length=1)
    client = Client(small, 0)
    up: dict[str, int] = {}
    down: dict[str, int] = {}

    def answered(round_: Round, message: Message) -> Message:
        data = encode(message, small)
        down[round_.value] = _frame_bytes(data)
        (event, *_) = client.receive(decode_server_message(data, small))
        if not isinstance(event, Send):
            (event,) = client.submit_input(np.zeros(small.vector_length, dtype=np.uint64))
            assert isinstance(event, Send)
        up[round_.value] = _frame_bytes(encode(event.message, small))
        return event.message

    (start,) = client.start()
    assert isinstance(start, Send)
    assert isinstance(start.message, AdvertiseKeys)
    up[Round.ADVERTISE_KEYS.value] = _frame_bytes(encode(start.message, small))
    keys = start.message
    answered(Round.SHARE_KEYS, _peer_keys(client, keys, peers, params.degree))
    shared = (True,) * (params.degree + 1)
    shares = _encrypted_shares(client, keys, peers, params.degree)
    answered(Round.MASKED_INPUT_COLLECTION, PeerShares(client.session_id, shared=shared, encrypted_shares=shares))
    if not masks_really:
        stand_in = MaskedInput(client.session_id, _uniform_vector(params))
        up[Round.MASKED_INPUT_COLLECTION.value] = _frame_bytes(encode(stand_in, params))
    answered(Round.UNMASKING, SurvivorList(client.session_id, shared))
    return Traffic(up, down)


def published_bytes(num_clients: int, num_elements: int) -> float:
    """Return the paper's count: [256 (7n - 4) + m ceil(log2 R)] / 8 bytes, R = n (2^16 - 1) + 1."""
    ring_bits = (num_clients * (2**16 - 1)).bit_length()
    return (256 * (7 * num_clients - 4) + num_elements * ring_bits) / 8


def _peer_keys(client: Client, own: AdvertiseKeys, peers: Peers, count: int) -> PeerKeys:
    return PeerKeys(
        client.session_id,
        client_ids=_spread_ids(client.params),
        channel_public_keys=b"".join((own.channel_public_key, *peers.channel_public_keys[:count])),
        mask_public_keys=b"".join((own.mask_public_key, *peers.mask_public_keys[:count])),
    )


def _spread_ids(params: Parameters) -> tuple[int, ...]:
    """Return the neighbourhood's ids, this client's own (0) first."""
    return tuple(place * params.num_clients // (params.degree + 1) for place in range(params.degree + 1))


def _encrypted_shares(client: Client, own: AdvertiseKeys, peers: Peers, count: int) -> bytes:
    rng = np.random.default_rng()
    sealed = []
    ids: Iterable[int] = _spread_ids(client.params)[1:]
    for peer_id, key in zip(ids, peers.channel_keys[:count], strict=True):
        channel = ShareChannel.agree(key, own.channel_public_key, client.session_id, peer_id, 0)
        shares = shares_to_bytes(rng.integers(PRIME, size=(2, LIMBS), dtype=np.uint16))
        sealed.append(channel.seal_shares(shares, client.session_id, peer_id, 0))
    return b"".join(sealed)


def _uniform_vector(params: Parameters) -> ring.RingVector:
    dtype = ring.word_dtype(params.ring_bits)
    vector = np.frombuffer(os.urandom(params.vector_length * dtype.itemsize), dtype=dtype).copy()
    ring.reduce_in_place(vector, params.ring_bits)
    return vector


def _frame_bytes(data: bytes) -> int:
    return len(encode_frame(data))
