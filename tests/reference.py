"""A slow second implementation of the protocol for tests to compare with: only Python's integers and bytes.

It is written from the papers and standards (Bonawitz et al., CCS 2017, figure 4; Shamir 1979; RFC 5869; RFC 7748;
RFC 8032; NIST SP 800-38A and 38D) and from the library's documented encodings, and imports nothing of the library.
Vectors are lists of ints, field and ring arithmetic is ``%``, bit packing is one big integer, HKDF is written out over
hmac, masks come from plain AES-CTR.
"""

import hashlib
import hmac
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

PRIME = 65521
LIMBS = 9
LIMB_BITS = 15
CHUNK_BYTES = 2**18

MASK_KEY, SELF_MASK = 0, 1
"""The two shared secrets of a client: the seed of its mask key pair, and that of its self mask."""


# --- Standards -------------------------------------------------------------------------------------------------------


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return keys by HKDF-SHA-256 (RFC 5869, sections 2.2 and 2.3)."""
    pseudorandom_key = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    block, output = b"", b""
    counter = 1
    while len(output) < length:
        block = hmac.new(pseudorandom_key, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def aes_ctr_keystream(key: bytes, first_block: bytes, size: int) -> bytes:
    """Return the keystream of NIST SP 800-38A, section 6.5: the whole block is one big-endian counter."""
    return Cipher(AES(key), CTR(first_block)).encryptor().update(bytes(size))


def x25519_public(secret_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()


def x25519(secret_key: bytes, public_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret_key).exchange(X25519PublicKey.from_public_bytes(public_key))


def ed25519_public(secret_key: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()


def ed25519_sign(secret_key: bytes, statement: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret_key).sign(statement)


def derive(secret: bytes, session: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """Return a key for one purpose: HKDF whose info is the label with its length before it, then ids of fixed size."""
    return hkdf_sha256(secret, session, bytes([len(label)]) + label + context, length)


# --- Shamir's scheme over GF(65521) ----------------------------------------------------------------------------------


def evaluate(coefficients: Sequence[int], point: int) -> int:
    """Return a_0 + a_1 x + a_2 x^2 + ... mod p."""
    return sum(coefficient * pow(point, power, PRIME) for power, coefficient in enumerate(coefficients)) % PRIME


def interpolate_at_zero(points: Sequence[tuple[int, int]]) -> int:
    """Return f(0) of the polynomial through the given (x, f(x)), by Lagrange."""
    total = 0
    for i, (x_i, y_i) in enumerate(points):
        numerator = denominator = 1
        for j, (x_j, _) in enumerate(points):
            if i != j:
                numerator = numerator * x_j % PRIME
                denominator = denominator * (x_j - x_i) % PRIME
        total += y_i * numerator * pow(denominator, -1, PRIME)
    return total % PRIME


def interpolate(values: Sequence[int], point: int) -> int:
    """Return f(point) of the polynomial with f(0), f(1), f(2), .. = values, by Lagrange."""
    # Moved by the point: f(point) is the value at zero.
    return interpolate_at_zero([(x - point, y) for x, y in enumerate(values)])


def seed_to_limbs(seed: bytes) -> list[int]:
    """Return a 16-byte seed as 9 limbs of 15 bits, least significant first."""
    value = int.from_bytes(seed, "big")
    return [value // 2 ** (LIMB_BITS * i) % 2**LIMB_BITS for i in range(LIMBS)]


def limbs_to_seed(limbs: Sequence[int]) -> bytes:
    return sum(limb * 2 ** (LIMB_BITS * i) for i, limb in enumerate(limbs)).to_bytes(16, "big")


def field_elements(stream: bytes, count: int) -> list[int]:
    """Return the first ``count`` big-endian 16-bit words of a random stream that are below p."""
    words = (int.from_bytes(stream[at : at + 2], "big") for at in range(0, len(stream), 2))
    accepted = [word for word in words if word < PRIME]
    assert len(accepted) >= count, "the recorded randomness is too short"
    return accepted[:count]


# --- Ring vectors ----------------------------------------------------------------------------------------------------


def word_bits(ring_bits: int) -> int:
    """Return the smallest of the usual word sizes that holds an element."""
    return next(bits for bits in (8, 16, 32, 64) if bits >= ring_bits)


def chunked_keystream(key: bytes, size: int) -> bytes:
    """Return plain AES-CTR, chunk after chunk of 256 KiB: chunk i starts at counter block BE96(i) || BE32(2)."""
    stream = b""
    chunk = 0
    while len(stream) < size:
        first_block = chunk.to_bytes(12, "big") + (2).to_bytes(4, "big")
        stream += aes_ctr_keystream(key, first_block, CHUNK_BYTES)
        chunk += 1
    return stream[:size]


def expand_mask(key: bytes, length: int, ring_bits: int) -> list[int]:
    """Return PRG(key): little-endian words of the keystream, mod 2^b."""
    word_bytes = word_bits(ring_bits) // 8
    stream = chunked_keystream(key, length * word_bytes)
    return [
        int.from_bytes(stream[at : at + word_bytes], "little") % 2**ring_bits
        for at in range(0, length * word_bytes, word_bytes)
    ]


def add(left: Sequence[int], right: Sequence[int], ring_bits: int, sign: int = 1) -> list[int]:
    return [(a + sign * b) % 2**ring_bits for a, b in zip(left, right, strict=True)]


def ring_sum(vectors: Iterable[Sequence[int]], ring_bits: int) -> list[int]:
    return [sum(column) % 2**ring_bits for column in zip(*vectors, strict=True)]


def pack(vector: Sequence[int], ring_bits: int) -> bytes:
    """Return all elements in one big integer, element i at bit i*b; its bytes least significant first."""
    digits = "".join(f"{element:0{ring_bits}b}" for element in reversed(vector))
    return int(digits, 2).to_bytes((len(vector) * ring_bits + 7) // 8, "little")


# --- The protocol ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """Parameters of a session, as plain numbers."""

    num_clients: int
    threshold: int
    degree: int
    vector_length: int
    value_bits: int
    ring_bits: int
    modular: bool = False
    adversary: int = 0
    """0 honest-but-curious, 1 semi-malicious, 2 malicious."""
    noise_components: int = 0
    corrupt_clients: int = 0


def session_id(numbers: Numbers, nonce: bytes, context: bytes) -> bytes:
    """Return SHA-256 over label, protocol version 1 and all numbers big-endian, then nonce and context with lengths."""
    label = b"secagg/1 session id"
    encoded = bytes([len(label)]) + label + (1).to_bytes(2, "big")
    widths = [
        (numbers.num_clients, 4),
        (numbers.threshold, 4),
        (numbers.degree, 4),
        (numbers.vector_length, 8),
        (numbers.value_bits, 1),
        (numbers.ring_bits, 1),
        (int(numbers.modular), 1),
        (numbers.adversary, 1),
        (numbers.noise_components, 1),
        (numbers.corrupt_clients, 4),
        (len(nonce), 1),
    ]
    encoded += b"".join(value.to_bytes(width, "big") for value, width in widths)
    return hashlib.sha256(encoded + nonce + len(context).to_bytes(8, "big") + context).digest()


def id_bytes(*client_ids: int) -> bytes:
    return b"".join(client_id.to_bytes(4, "big") for client_id in client_ids)


def labelled_digest(label: bytes, content: bytes) -> bytes:
    """Return SHA-256 of the label with its length before it, then the content."""
    return hashlib.sha256(bytes([len(label)]) + label + content).digest()


def seed_commitment(seed: bytes, session: bytes, client_id: int) -> bytes:
    return labelled_digest(b"secagg/1 seed commitment", session + id_bytes(client_id) + seed)


ADVERTISED, SHARED, SURVIVED = 0, 1, 2
"""How far a member of a view has come."""


def view_member(session: bytes, client_id: int, keys: Sequence[bytes], standing: int) -> bytes:
    """Return the digest of one member of a view; ``keys`` are its identity key, channel key and mask key."""
    of_keys = labelled_digest(b"secagg/1 member keys", session + id_bytes(client_id) + b"".join(keys))
    return labelled_digest(b"secagg/1 member", bytes([standing]) + of_keys)


def view_digest(session: bytes, members: Iterable[bytes]) -> bytes:
    """Return the digest of a view: of its members' digests in ascending order."""
    return labelled_digest(b"secagg/1 view digest", session + b"".join(sorted(members)))


def view_statement(session: bytes, signer_id: int, members: Iterable[bytes]) -> bytes:
    """Return the statement that a survivor signs in ConsistencyCheck."""
    return b"secagg/1 view of survivors" + session + id_bytes(signer_id) + view_digest(session, members)


def self_mask_key(seed: bytes, session: bytes, client_id: int) -> bytes:
    return derive(seed, session, b"secagg/1 self mask", id_bytes(client_id), 16)


def mask_secret_key(seed: bytes, session: bytes, client_id: int) -> bytes:
    return derive(seed, session, b"secagg/1 mask key pair", id_bytes(client_id), 32)


def pairwise_mask_key(secret_key: bytes, peer_public_key: bytes, session: bytes, own_id: int, peer_id: int) -> bytes:
    pair = id_bytes(min(own_id, peer_id), max(own_id, peer_id))
    return derive(x25519(secret_key, peer_public_key), session, b"secagg/1 pairwise mask", pair, 16)


class Client:
    """One client's secrets and all that follows from them, computed from the random bytes that it drew."""

    def __init__(self, numbers: Numbers, session: bytes, client_id: int, draws: Sequence[bytes]) -> None:
        self.numbers = numbers
        self.session = session
        self.client_id = client_id
        self.channel_secret_key, self.mask_key_seed, self.self_mask_seed, self.sharing_seed = draws[:4]
        # Drawn for the session only in semi-malicious mode; in malicious mode identities outlive it.
        self.session_identity = draws[4] if numbers.adversary == 1 and len(draws) > 4 else None
        self.noise_seed = draws[-1] if numbers.noise_components else b""
        self.mask_secret_key = mask_secret_key(self.mask_key_seed, session, client_id)
        self.channel_public_key = x25519_public(self.channel_secret_key)
        self.mask_public_key = x25519_public(self.mask_secret_key)

    def seed_commitment(self) -> bytes:
        return seed_commitment(self.self_mask_seed, self.session, self.client_id)

    def keys_statement(self) -> bytes:
        """Return the statement that a client signs in AdvertiseKeys."""
        keys = self.channel_public_key + self.mask_public_key
        return b"secagg/1 advertised keys" + self.session + id_bytes(self.client_id) + keys

    def view_member(self, identity_key: bytes, standing: int) -> bytes:
        """Return this client as a member of its neighbours' views, and of its own."""
        keys = (identity_key, self.channel_public_key, self.mask_public_key)
        return view_member(self.session, self.client_id, keys, standing)

    def polynomials(self) -> list[list[int]]:
        """Return one polynomial of degree t - 1 for each limb of the mask key's seed, then of the self mask's."""
        secrets = seed_to_limbs(self.mask_key_seed) + seed_to_limbs(self.self_mask_seed)
        rows = self.numbers.threshold - 1
        count = rows * len(secrets)
        key = derive(self.sharing_seed, self.session, b"secagg/1 sharing coefficients", id_bytes(self.client_id), 16)
        # Fifteen words of 65536 are refused: a tenth more, and some, is always enough.
        random = field_elements(chunked_keystream(key, 2 * (count + count // 10 + 50)), count)
        return [
            [secret, *(random[row * len(secrets) + column] for row in range(rows))]
            for column, secret in enumerate(secrets)
        ]

    def share(self, place: int) -> tuple[list[int], list[int]]:
        """Return the shares of the holder in ``place``: of the mask key's seed and of the self mask's."""
        values = [evaluate(polynomial, place + 1) for polynomial in self.polynomials()]
        return values[:LIMBS], values[LIMBS:]

    def channel_keys(self, peer_id: int, peer_public_key: bytes) -> tuple[bytes, bytes]:
        """Return the keys to encrypt to the peer and to decrypt its messages."""
        low, high = min(self.client_id, peer_id), max(self.client_id, peer_id)
        secret = x25519(self.channel_secret_key, peer_public_key)
        keys = derive(secret, self.session, b"secagg/1 channel keys", id_bytes(low, high), 32)
        upward, downward = keys[:16], keys[16:]
        return (upward, downward) if self.client_id == low else (downward, upward)

    def encrypted_share(self, peer: "Client", peer_place: int) -> bytes:
        """Return e_uv: both shares big-endian, under AES-GCM with a zero nonce, bound to session and both clients."""
        plaintext = b"".join(limb.to_bytes(2, "big") for share in self.share(peer_place) for limb in share)
        key, _ = self.channel_keys(peer.client_id, peer.channel_public_key)
        bound = b"secagg/1 encrypted shares" + self.session + id_bytes(self.client_id, peer.client_id)
        return AESGCM(key).encrypt(bytes(12), plaintext, bound)

    def noise_seeds(self) -> list[bytes]:
        contexts = map(self._component, range(1, self.numbers.noise_components + 1))
        return [derive(self.noise_seed, self.session, b"secagg/1 noise seed", context, 16) for context in contexts]

    def noise_keys(self) -> list[bytes]:
        contexts = map(self._component, itertools.count(1))
        pairs = zip(self.noise_seeds(), contexts, strict=False)
        return [derive(seed, self.session, b"secagg/1 noise key", context, 16) for seed, context in pairs]

    def noise_commitments(self) -> bytes:
        """Return a commitment to the seed of each component."""
        return b"".join(
            labelled_digest(b"secagg/1 noise commitment", self.session + self._component(component) + seed)
            for component, seed in enumerate(self.noise_seeds(), 1)
        )

    def _component(self, component: int) -> bytes:
        return id_bytes(self.client_id) + bytes([component])

    def noise_pads(self, holder: "Client") -> list[list[int]]:
        """Return the pads of a holder of this client's noise seeds, 9 field elements for each component."""
        if holder.client_id == self.client_id:
            key = derive(self.sharing_seed, self.session, b"secagg/1 own noise pads", id_bytes(self.client_id), 16)
        else:
            low, high = min(self.client_id, holder.client_id), max(self.client_id, holder.client_id)
            secret = x25519(self.channel_secret_key, holder.channel_public_key)
            keys = derive(secret, self.session, b"secagg/1 channel keys", id_bytes(low, high), 64)
            key = keys[32:48] if self.client_id == low else keys[48:]
        count = LIMBS * self.numbers.noise_components
        words = field_elements(chunked_keystream(key, 2 * (count + count // 10 + 50)), count)
        return [words[at : at + LIMBS] for at in range(0, count, LIMBS)]

    def noise_share(self, holders: Sequence["Client"], place: int) -> list[list[int]]:
        """Return the shares of the holder in ``place``: its pads up to place t - 2, and from there on as they follow.

        ``holders`` are all members of this client's neighbourhood, in their order.
        """
        first = self.numbers.threshold - 1
        if place < first:
            return self.noise_pads(holders[place])
        pads = [self.noise_pads(holder) for holder in holders[:first]]
        shares = []
        for component, seed in enumerate(self.noise_seeds()):
            known = [seed_to_limbs(seed), *(of_holder[component] for of_holder in pads)]
            shares.append([interpolate([row[limb] for row in known], place + 1) for limb in range(LIMBS)])
        return shares

    def noise_corrections(self, holders: Sequence["Client"]) -> bytes:
        """Return what the shares from place t - 1 on differ by from the pads."""
        corrections = b""
        for place in range(self.numbers.threshold - 1, len(holders)):
            pads, shares = self.noise_pads(holders[place]), self.noise_share(holders, place)
            for pad, share in zip(pads, shares, strict=True):
                corrections += b"".join(((y - x) % PRIME).to_bytes(2, "big") for x, y in zip(pad, share, strict=True))
        return corrections

    def self_mask(self) -> list[int]:
        """Return p_u."""
        key = self_mask_key(self.self_mask_seed, self.session, self.client_id)
        return expand_mask(key, self.numbers.vector_length, self.numbers.ring_bits)

    def pairwise_mask_key(self, peer: "Client") -> bytes:
        return pairwise_mask_key(
            self.mask_secret_key, peer.mask_public_key, self.session, self.client_id, peer.client_id
        )

    def pairwise_mask(self, peer: "Client") -> list[int]:
        """Return p_uv: the smaller id adds what the larger one subtracts."""
        expanded = expand_mask(self.pairwise_mask_key(peer), self.numbers.vector_length, self.numbers.ring_bits)
        sign = 1 if self.client_id < peer.client_id else -1
        return [sign * element % 2**self.numbers.ring_bits for element in expanded]

    def masked_input(self, input_vector: Sequence[int], peers: Iterable["Client"]) -> list[int]:
        """Return y_u = x_u + p_u + sum of p_uv over the peers that shared keys."""
        masks = [self.self_mask(), *(self.pairwise_mask(peer) for peer in peers)]
        return ring_sum([input_vector, *masks], self.numbers.ring_bits)


def removed_components(numbers: Numbers, num_survivors: int) -> list[int]:
    """Return the noise components that a sum of this many inputs does not need: the digits 0 of what it needs.

    Each component has twice the variance of the one before; together they are the difference between the noise of a
    survivor of t and of one of n, which is 1/(t - A) - 1/(n - A) of what the sum needs.
    """
    count, corrupt = numbers.noise_components, numbers.corrupt_clients
    if not count:
        return []

    def share(survivors: int) -> Fraction:
        return Fraction(1, survivors - corrupt) - Fraction(1, numbers.num_clients - corrupt)

    needed = math.ceil((2**count - 1) * share(num_survivors) / share(numbers.threshold))
    return [component for component in range(1, count + 1) if needed // 2 ** (component - 1) % 2 == 0]


def reconstruct_seed(shares: Sequence[tuple[int, Sequence[int]]]) -> bytes:
    """Return a seed from t shares, each with its holder's place."""
    return limbs_to_seed(
        [interpolate_at_zero([(place + 1, share[limb]) for place, share in shares]) for limb in range(LIMBS)]
    )
