"""Keys, ciphers, hashes, and the protocol's use of them."""

import hashlib
import hmac
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

P25519 = 2**255 - 19
CHUNK = 262_144
ADVERSARIES = ("honest-but-curious", "semi-malicious", "malicious")


def be32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def labelled_hash(label: str, *parts: bytes) -> bytes:
    text = f"secagg/1 {label}".encode()
    return sha256(bytes([len(text)]) + text + b"".join(parts))


def hkdf(secret: bytes, salt: bytes, label: str, context: bytes, length: int) -> bytes:
    """Return HKDF (RFC 5869), with the label and its length before the context as info."""
    text = f"secagg/1 {label}".encode()
    info = bytes([len(text)]) + text + context
    key = hmac.new(salt, secret, hashlib.sha256).digest()
    block = output = b""
    counter = 0
    while len(output) < length:
        counter += 1
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
    return output[:length]


def shake_stream(label: str, size: int) -> bytes:
    """Return the vectors' fixed randomness."""
    return hashlib.shake_256(b"secagg test vectors 1/" + label.encode("ascii")).digest(size)


def session_id(params: dict[str, Any], nonce: bytes, context: bytes) -> bytes:
    numbers = (
        (1, 2),
        (params["num_clients"], 4),
        (params["threshold"], 4),
        (params["degree"], 4),
        (params["vector_length"], 8),
        (params["value_bits"], 1),
        (params["ring_bits"], 1),
        (int(params["modular"]), 1),
        (ADVERSARIES.index(params["adversary"]), 1),
        (params["noise_components"], 1),
        (params["corrupt_clients"], 4),
        (len(nonce), 1),
    )
    encoded = b"".join(number.to_bytes(width, "big") for number, width in numbers)
    return labelled_hash("session id", encoded, nonce, len(context).to_bytes(8, "big"), context)


# --- X25519 ----------------------------------------------------------------------------------------------------------


def x25519_public(secret_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()


def x25519(secret_key: bytes, public_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret_key).exchange(X25519PublicKey.from_public_bytes(public_key))


def clamp(secret_key: bytes) -> bytes:
    """Set and clear bits as in RFC 7748, section 5."""
    number = int.from_bytes(secret_key, "little")
    number = number % 2**254 // 8 * 8 + 2**254
    return number.to_bytes(32, "little")


def x25519_accepted(public_key: bytes) -> bool:
    """Return whether the key is canonical and no exchange with it gives zero, which the library beneath refuses."""
    if int.from_bytes(public_key, "little") >= P25519:
        return False
    try:
        x25519(bytes(range(32)), public_key)
    except ValueError:
        return False
    return True


# --- Ed25519 ---------------------------------------------------------------------------------------------------------

_D = -121665 * pow(121666, -1, P25519) % P25519
_SQRT_M1 = pow(2, (P25519 - 1) // 4, P25519)


def _x_of(y: int) -> int | None:
    """Return a square root of (y^2 - 1) / (d y^2 + 1), if there is one (RFC 8032, section 5.1.3)."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, P25519) % P25519
    root = pow(square, (P25519 + 3) // 8, P25519)
    for candidate in (root, root * _SQRT_M1 % P25519):
        if candidate * candidate % P25519 == square:
            return candidate
    return None


def _double(point: tuple[int, int]) -> tuple[int, int]:
    x, y = point
    product = _D * x * x * y * y % P25519
    return (
        2 * x * y * pow(1 + product, -1, P25519) % P25519,
        (y * y + x * x) * pow(1 - product, -1, P25519) % P25519,
    )


def ed25519_accepted(public_key: bytes) -> bool:
    """Return whether the key is canonical, and eight times the point is not the neutral one."""
    y = int.from_bytes(public_key, "little") % 2**255
    if y >= P25519:
        return False
    x = _x_of(y)
    return x is None or _double(_double(_double((x, y)))) != (0, 1)


def ed25519_public(secret_key: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()


def ed25519_sign(secret_key: bytes, statement: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret_key).sign(statement)


def ed25519_verify(public_key: bytes, statement: bytes, signature: bytes) -> bool:
    if not ed25519_accepted(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


# --- Masks -----------------------------------------------------------------------------------------------------------


def keystream(key: bytes, size: int) -> bytes:
    """Return the generator's first bytes: AES-128-CTR, chunk i from counter block BE96(i) || BE32(2) on."""
    output = b""
    for chunk in range((size + CHUNK - 1) // CHUNK):
        first = chunk.to_bytes(12, "big") + (2).to_bytes(4, "big")
        output += Cipher(AES(key), CTR(first)).encryptor().update(bytes(min(CHUNK, size - len(output))))
    return output


def word_bytes(ring_bits: int) -> int:
    return next(size for size in (1, 2, 4, 8) if ring_bits <= 8 * size)


def mask(key: bytes, length: int, ring_bits: int) -> list[int]:
    size = word_bytes(ring_bits)
    stream = keystream(key, size * length)
    return [int.from_bytes(stream[at : at + size], "little") % 2**ring_bits for at in range(0, size * length, size)]


def self_mask_key(seed: bytes, session: bytes, client_id: int) -> bytes:
    return hkdf(seed, session, "self mask", be32(client_id), 16)


def mask_secret_key(seed: bytes, session: bytes, client_id: int) -> bytes:
    return hkdf(seed, session, "mask key pair", be32(client_id), 32)


def pairwise_mask_key(secret_key: bytes, peer_key: bytes, session: bytes, own_id: int, peer_id: int) -> bytes:
    pair = be32(min(own_id, peer_id), max(own_id, peer_id))
    return hkdf(x25519(secret_key, peer_key), session, "pairwise mask", pair, 16)


# --- Shares ----------------------------------------------------------------------------------------------------------


def channel_key(secret_key: bytes, peer_key: bytes, session: bytes, own_id: int, peer_id: int, sender: int) -> bytes:
    """Return the key for messages from ``sender``, one of the two, to the other."""
    low, high = min(own_id, peer_id), max(own_id, peer_id)
    keys = hkdf(x25519(secret_key, peer_key), session, "channel keys", be32(low, high), 32)
    return keys[:16] if sender == low else keys[16:]


def share_data(session: bytes, sender: int, receiver: int) -> bytes:
    return b"secagg/1 encrypted shares" + session + be32(sender, receiver)


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    return AESGCM(key).encrypt(bytes(12), plaintext, associated_data)


def unseal(key: bytes, ciphertext: bytes, associated_data: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(bytes(12), ciphertext, associated_data)
    except InvalidTag:
        return None


def seed_commitment(seed: bytes, session: bytes, client_id: int) -> bytes:
    return labelled_hash("seed commitment", session, be32(client_id), seed)


# --- Statements ------------------------------------------------------------------------------------------------------


def advertised_statement(session: bytes, client_id: int, channel_key: bytes, mask_key: bytes) -> bytes:
    return b"secagg/1 advertised keys" + session + be32(client_id) + channel_key + mask_key


def member_keys(session: bytes, client_id: int, identity_key: bytes, channel_key: bytes, mask_key: bytes) -> bytes:
    return labelled_hash("member keys", session, be32(client_id), identity_key, channel_key, mask_key)


def member(keys: bytes, standing: int) -> bytes:
    return labelled_hash("member", bytes([standing]), keys)


def view_digest(session: bytes, members: list[bytes]) -> bytes:
    return labelled_hash("view digest", session, *sorted(members))


def view_statement(session: bytes, signer: int, digest: bytes) -> bytes:
    return b"secagg/1 view of survivors" + session + be32(signer) + digest
