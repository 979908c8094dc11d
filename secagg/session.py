"""Compute the session id, to which all keys of a session are bound."""

import struct

from secagg.errors import LocalProtocolError
from secagg.params import Parameters
from secagg.primitives import digest, labels

SESSION_ID_BYTES = 32

MAX_NONCE_BYTES = 255


def session_id(params: Parameters, *, nonce: bytes, context: bytes) -> bytes:
    """Return SHA-256, 32 bytes, of a canonical encoding of version, parameters, nonce and context.

    Args:
        nonce: public bytes, fresh for each session, that the application distributes with the parameters;
            may be empty if the context never repeats, but not in malicious mode.
        context: bytes that the application binds to the session, such as the hash of the model that this
            client received.  Clients with different contexts cannot agree on masks, so a server that gives
            each client its own model learns nothing (Pasquini et al., CCS 2022).
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
    # Each field has a fixed width or its length before it, so different inputs have different encodings.
    header = struct.pack(">H", labels.PROTOCOL_VERSION) + params.to_bytes() + bytes([len(nonce)]) + nonce
    return digest.labelled(labels.SESSION_ID, header, struct.pack(">Q", len(context)), context)
