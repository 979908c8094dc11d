"""Secret sharing, key agreement and share encryption beside the raw product, exchange and cipher."""

import os

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.case import Case
from benchmarks.interleave import Work
from secagg import masking, sharing
from secagg.algebra import shamir
from secagg.algebra.field import PRIME
from secagg.primitives.agreement import SecretKey
from secagg.sharing import LIMBS, SHARE_BYTES, ShareChannel

_HOLDERS = 500
_THRESHOLD = 334
_NONCE = bytes(12)


def shamir_share() -> Case:
    """Two seeds of 9 limbs each for 500 holders, t = 334."""
    limbs = 2 * LIMBS

    def build() -> tuple[Work, Work]:
        rng = np.random.default_rng(1)
        secrets = rng.integers(PRIME, size=limbs, dtype=np.uint16)
        coefficients = rng.integers(PRIME, size=(_THRESHOLD - 1, limbs), dtype=np.uint16)
        powers = rng.integers(PRIME, size=(_HOLDERS, _THRESHOLD)).astype(np.float64)
        polynomials = rng.integers(PRIME, size=(_THRESHOLD, limbs)).astype(np.float64)
        return lambda: shamir.share(secrets, coefficients, _HOLDERS), lambda: powers @ polynomials

    params = {"holders": _HOLDERS, "threshold": _THRESHOLD, "limbs": limbs}
    return Case("shamir_share", params, "speed over the float64 matrix product of that shape", build)


def shamir_reconstruct() -> Case:
    """The seeds of 500 clients, 9 limbs each, from 334 shares."""
    limbs = _HOLDERS * LIMBS

    def build() -> tuple[Work, Work]:
        rng = np.random.default_rng(2)
        places = np.sort(rng.permutation(_HOLDERS)[:_THRESHOLD])
        shares = rng.integers(PRIME, size=(_THRESHOLD, limbs), dtype=np.uint16)
        weights = rng.integers(PRIME, size=(1, _THRESHOLD)).astype(np.float64)
        floats = shares.astype(np.float64)
        return lambda: shamir.reconstruct(places, shares), lambda: weights @ floats

    params = {"secrets": _HOLDERS, "threshold": _THRESHOLD, "limbs": limbs}
    return Case("shamir_reconstruct", params, "speed over the float64 matrix product of that shape", build)


def key_agreement() -> Case:
    """A pairwise mask's key: exchange and HKDF, the peer's key given as bytes."""

    def build() -> tuple[Work, Work]:
        peer = X25519PrivateKey.generate().public_key()
        peer_bytes = peer.public_bytes_raw()
        secret = SecretKey(os.urandom(32))
        private = X25519PrivateKey.generate()
        session_id = os.urandom(32)
        return lambda: masking.pairwise_mask(secret, peer_bytes, session_id, 1, 2), lambda: private.exchange(peer)

    return Case("key_agreement", {}, "speed over a raw X25519 exchange", build)


def seal_shares() -> Case:
    """A pair of shares sealed for a peer, 36 bytes; the raw cipher is set up for its one message too."""

    def build() -> tuple[Work, Work]:
        channel, key, shares, session_id = _channel()
        data = os.urandom(64)
        return (
            lambda: channel.seal_shares(shares, session_id, 1, 2),
            lambda: AESGCM(key).encrypt(_NONCE, shares, data),
        )

    return Case("seal_shares", {}, "speed over raw AESGCM(key).encrypt", build)


def open_shares() -> Case:
    """What a peer sealed, opened, and its limbs checked to be of the field."""

    def build() -> tuple[Work, Work]:
        channel, key, shares, session_id = _channel()
        sealed = channel.seal_shares(shares, session_id, 1, 2)
        data = os.urandom(64)
        raw = AESGCM(key).encrypt(_NONCE, shares, data)
        return (
            lambda: sharing.open_shares(key, sealed, session_id, 1, 2),
            lambda: AESGCM(key).decrypt(_NONCE, raw, data),
        )

    return Case("open_shares", {}, "speed over raw AESGCM(key).decrypt", build)


def _channel() -> tuple[ShareChannel, bytes, bytes, bytes]:
    key, session_id = os.urandom(16), os.urandom(32)
    return ShareChannel(key, key), key, bytes(2 * SHARE_BYTES), session_id
