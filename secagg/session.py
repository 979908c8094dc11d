"""The session id: what all keys of a session are bound to."""

import struct

from cryptography.hazmat.primitives.hashes import SHA256, Hash

from secagg.errors import LocalProtocolError
from secagg.params import Adversary, Parameters
from secagg.primitives import labels

SESSION_ID_BYTES = 32

MAX_NONCE_BYTES = 255

_ADVERSARY_CODES = {Adversary.HONEST_BUT_CURIOUS: 0, Adversary.SEMI_MALICIOUS: 1, Adversary.MALICIOUS: 2}


def session_id(params: Parameters, *, nonce: bytes, context: bytes) -> bytes:
    """SHA-256 of a canonical encoding of version, parameters, nonce and context: 32 bytes.

    Args:
        nonce: public bytes, fresh for each session, that the application distributes with the parameters;
            may be empty where the context never repeats, but not in malicious mode.
        context: bytes that the application binds to the session, such as the hash of the model that this
            client received.  Clients with different contexts cannot agree on masks, so a server that gives
            each client a model of its own learns nothing (Pasquini et al., CCS 2022).
    """
    for name, value in (("nonce", nonce), ("context", context)):
        if not isinstance(value, bytes):
            raise LocalProtocolError(f"{name} must be bytes, not {type(value).__name__}")
    if len(nonce) > MAX_NONCE_BYTES:
        raise LocalProtocolError(f"nonce has {len(nonce)} bytes, but at most {MAX_NONCE_BYTES}")
    if params.has_identities and not nonce:
        raise LocalProtocolError(
            "malicious mode needs a nonce, fresh for each session: signatures must not be replayed"
        )
    hasher = Hash(SHA256())
    hasher.update(bytes([len(labels.SESSION_ID)]) + labels.SESSION_ID)
    # Every field has a fixed width, or its length before it: no two inputs have one encoding.
    hasher.update(
        struct.pack(
            ">HIIIQBBBB",
            labels.PROTOCOL_VERSION,
            params.num_clients,
            params.threshold,
            params.degree,
            params.vector_length,
            params.value_bits,
            params.ring_bits,
            params.modular,
            _ADVERSARY_CODES[params.adversary],
        )
    )
    hasher.update(struct.pack(">B", len(nonce)) + nonce)
    hasher.update(struct.pack(">Q", len(context)))
    hasher.update(context)
    return hasher.finalize()
