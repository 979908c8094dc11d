"""Cases of keys and signatures: encodings that are accepted, and those refused though a library may accept them."""

import hashlib
from typing import Any

from secagg.primitives import agreement, signing

from .entropy import Stream

_P = 2**255 - 19
_ORDER_8_U = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
_ORDER_8_Y = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_TOP_BIT = 1 << 255
_GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def x25519_keys(stream: Stream) -> dict[str, Any]:
    """Return secret keys with their public keys, and encodings of points."""
    points = {
        "the base point": 9,
        "zero, of order 4": 0,
        "one, of order 1": 1,
        "minus one, of order 2": _P - 1,
        "of order 8, first": _ORDER_8_U[0],
        "of order 8, second": _ORDER_8_U[1],
        "zero, not canonical": _P,
        "one, not canonical": _P + 1,
        "the base point, not canonical": _P + 9,
        "the base point with the unused bit": 9 + _TOP_BIT,
        "zero with the unused bit": _TOP_BIT,
        "two, on the twist": 2,
        "the largest canonical number that is not of small order": _P - 2,
        "all ones": 2**256 - 1,
    }
    cases: list[dict[str, Any]] = []
    for name, u in points.items():
        key = u.to_bytes(32, "little")
        cases.append({"name": name, "public_key": key, "accepted": agreement.is_valid_public_key(key)})
    secret = stream(32)
    clamped = bytes([secret[0] & 248, *secret[1:31], secret[31] & 127 | 64])
    public_key = agreement.public_key(secret)
    cases.append(
        {
            "name": "any 32 bytes are a secret key",
            "secret_key": secret,
            "clamped_secret_key": clamped,
            "public_key": public_key,
            "accepted": True,
        }
    )
    return {
        "description": "advertised keys: canonical (below 2^255 - 19, the unused bit clear) and not of small order",
        "source": "RFC 7748, sections 5 and 6.1; stricter than it, so that keys can be compared as bytes",
        "cases": cases,
    }


def ed25519_keys(stream: Stream) -> dict[str, Any]:
    """Return encodings of points, and which may be an identity key."""
    points = {
        "the base point": 4 * pow(5, -1, _P) % _P,
        "one, the neutral point": 1,
        "minus one, of order 2": _P - 1,
        "zero, of order 4": 0,
        "zero, of order 4, the other one": _TOP_BIT,
        "of order 8, first": _ORDER_8_Y,
        "of order 8, second": _ORDER_8_Y + _TOP_BIT,
        "of order 8, third": _P - _ORDER_8_Y,
        "of order 8, fourth": _P - _ORDER_8_Y + _TOP_BIT,
        "the neutral point with a sign": 1 + _TOP_BIT,
        "zero, not canonical": _P,
        "the neutral point, not canonical": _P + 1,
        "three, not canonical": _P + 3,
        "all ones": 2**256 - 1,
    }
    cases: list[dict[str, Any]] = []
    for name, y in points.items():
        key = y.to_bytes(32, "little")
        cases.append({"name": name, "public_key": key, "accepted": signing.is_valid_public_key(key)})
    key = signing.SigningKey(stream(32)).public_key()
    cases.append({"name": "a key", "public_key": key, "accepted": True})
    return {
        "description": "identity keys: canonical and not of small order, whatever the sign; that a point has the "
        "coordinate at all is left to the verification",
        "source": "RFC 8032, section 5.1.3; stricter than it",
        "cases": cases,
    }


def signatures(stream: Stream) -> dict[str, Any]:
    """Return signatures that are valid, and some that are not."""
    cases: list[dict[str, Any]] = []

    def add(name: str, public_key: bytes, statement: bytes, signature: bytes, **more: bytes) -> None:
        valid = signing.verify(public_key, signature, statement)
        case = {"name": name, **more, "public_key": public_key, "statement": statement, "signature": signature}
        cases.append({**case, "valid": valid})

    for size in (0, 96, 103):
        secret, statement = stream(32), stream(size)
        key = signing.SigningKey(secret)
        add(f"a statement of {size} bytes", key.public_key(), statement, key.sign(statement), secret_key=secret)
    # ``key`` and ``statement`` are those of the last case.
    signature = key.sign(statement)
    add("of another statement", key.public_key(), statement[:-1], signature)
    add("of another key", signing.SigningKey(stream(32)).public_key(), statement, signature)
    scalar = int.from_bytes(signature[32:], "little") + _GROUP_ORDER
    add("the scalar is not reduced", key.public_key(), statement, signature[:32] + scalar.to_bytes(32, "little"))
    # With the neutral point as key, R = [S]B is a signature of any statement.
    secret = stream(32)
    digest = bytearray(hashlib.sha512(secret).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    scalar = int.from_bytes(digest, "little") % _GROUP_ORDER
    forged = signing.SigningKey(secret).public_key() + scalar.to_bytes(32, "little")
    add("a forgery under the neutral point, of anything", (1).to_bytes(32, "little"), statement, forged)
    return {
        "description": "signatures by identities; those without a secret key are not made by one",
        "source": "Ed25519, RFC 8032; keys of small order are refused too",
        "cases": cases,
    }
