"""Ed25519 against RFC 8032, and keys that anybody can sign for."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.primitives.signing import SigningKey, is_valid_public_key, verify

unhex = bytes.fromhex

# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
}

P = 2**255 - 19
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)
D = -121665 * pow(121666, -1, P) % P


def square_root(number: int) -> int | None:
    """Return a square root mod p; p = 5 mod 8."""
    root = pow(number, (P + 3) // 8, P)
    for candidate in (root, root * SQRT_MINUS_1 % P):
        if candidate * candidate % P == number % P:
            return candidate
    return None


def encoded(x: int, y: int) -> bytes:
    """Encode a point (RFC 8032, section 5.1.2)."""
    return (y | (x & 1) << 255).to_bytes(32, "little")


def points_of_small_order() -> dict[str, bytes]:
    """Return the eight points whose order divides the cofactor, by the curve's equation -x^2 + y^2 = 1 + d x^2 y^2."""
    points = {"order 1": (0, 1), "order 2": (0, P - 1)}
    points |= {f"order 4, x {name}": (x, 0) for name, x in (("+", SQRT_MINUS_1), ("-", P - SQRT_MINUS_1))}
    # Doubling a point of order 8 gives y = 0, so x^2 + y^2 = 0: then y = +-sqrt(-1) x, and d x^4 - 2 x^2 - 1 = 0.
    root = square_root(1 + D)
    assert root is not None
    for sign in (1, -1):
        x_squared = (1 + sign * root) * pow(D, -1, P) % P
        if (x := square_root(x_squared)) is not None:
            for chosen in (x, P - x):
                for y in (chosen * SQRT_MINUS_1 % P, -chosen * SQRT_MINUS_1 % P):
                    points[f"order 8, {len(points)}"] = (chosen, y)
    for x, y in points.values():
        assert (-x * x + y * y - 1 - D * x * x * y * y) % P == 0
    return {name: encoded(*point) for name, point in points.items()}


SMALL_ORDER = points_of_small_order()

NOT_CANONICAL = {
    "zero as p": P.to_bytes(32, "little"),
    "one as p + 1": (P + 1).to_bytes(32, "little"),
    "one with a negative zero": (1 | 1 << 255).to_bytes(32, "little"),
    "minus one with a negative zero": (P - 1 | 1 << 255).to_bytes(32, "little"),
    "p + 18": (P + 18).to_bytes(32, "little"),
    "all ones": b"\xff" * 32,
}

WRONG_SIZES = {"nothing": b"", "31 bytes": bytes([2] * 31), "33 bytes": bytes([2] * 33)}

NO_KEYS = {**SMALL_ORDER, **NOT_CANONICAL, **WRONG_SIZES}


@pytest.mark.parametrize("vector", RFC_8032.values(), ids=RFC_8032)
def test_rfc_8032_section_7_1(vector):
    secret_key, public_key, message, signature = map(unhex, vector)
    key = SigningKey(secret_key)
    assert key.public_key() == public_key
    assert key.sign(message) == signature
    assert is_valid_public_key(public_key)
    assert verify(public_key, signature, message)
    assert not verify(public_key, signature, message + b"\0")


def test_the_eight_points_of_small_order_are_all_there():
    assert len(SMALL_ORDER) == len(set(SMALL_ORDER.values())) == 8


IDENTITY_POINT = (1).to_bytes(32, "little")


def somebody_signed(public_key: bytes) -> bool:
    """Return whether R = the identity and S = 0 signs one of a few messages; no secret is needed for it."""
    for number in range(64):
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(IDENTITY_POINT + bytes(32), number.to_bytes(2, "big"))
        except (InvalidSignature, ValueError):
            continue
        return True
    return False


@pytest.mark.parametrize("name", SMALL_ORDER)
def test_anybody_can_sign_for_a_key_of_small_order(name):
    """The cryptography library accepts such a signature; so this library must refuse the key.

    0 B = R + h A holds for the identity R if the hash h is a multiple of the order of A: for one message in eight, and
    for every message if A is the identity.
    """
    key = SMALL_ORDER[name]
    assert somebody_signed(key)
    for number in range(64):
        assert not verify(key, IDENTITY_POINT + bytes(32), number.to_bytes(2, "big"))


def test_nobody_can_sign_so_for_a_proper_key():
    """The positive control of the test above."""
    assert not somebody_signed(SigningKey(bytes(32)).public_key())


@pytest.mark.parametrize("name", NO_KEYS)
def test_unusable_encodings_are_not_public_keys(name):
    assert not is_valid_public_key(NO_KEYS[name])
    assert not verify(NO_KEYS[name], IDENTITY_POINT + bytes(32), b"message")


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.integers(0, 511))
def test_every_generated_key_is_valid_and_one_flipped_bit_no_signature(secret_key, statement, bit):
    key = SigningKey(secret_key)
    signature = key.sign(statement)
    assert is_valid_public_key(key.public_key())
    assert verify(key.public_key(), signature, statement)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not verify(key.public_key(), bytes(flipped), statement)
    assert not verify(key.public_key(), signature, statement + b"\0")


def test_a_signature_with_a_larger_s_is_invalid():
    """S + L is the same number mod L: the check of RFC 8032 prevents that signatures are changed."""
    order = 2**252 + 27742317777372353535851937790883648493
    key = SigningKey(bytes(range(32)))
    signature = key.sign(b"statement")
    larger = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert verify(key.public_key(), signature, b"statement")
    assert not verify(key.public_key(), signature[:32] + larger, b"statement")


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_a_signature_has_64_bytes(size):
    assert not verify(SigningKey(bytes(32)).public_key(), bytes(size), b"statement")


def test_a_coordinate_without_a_point_verifies_nothing():
    """Half of all y have no x: such a key raises no error, and verifies no signature."""
    without = next(
        y for y in range(2, 50) if square_root((y * y - 1) * pow(D * y * y + 1, -1, P) % P) is None
    ).to_bytes(32, "little")
    assert is_valid_public_key(without)
    assert not verify(without, bytes(64), b"statement")
