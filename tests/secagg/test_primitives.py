"""The primitives against published vectors, through the library's own wrappers where those can express them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.primitives import labels
from secagg.primitives.aead import AuthenticationError, open_sealed, seal
from secagg.primitives.agreement import SecretKey, is_valid_public_key, public_key
from secagg.primitives.kdf import derive
from secagg.primitives.prg import CHUNK_BYTES, Keystream, KeystreamReader, chunk_buffer
from tests import reference
from tests.secagg.machines import BAD_POINTS

unhex = bytes.fromhex

BASE_POINT = (9).to_bytes(32, "little")


# --- X25519: RFC 7748 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scalar", "coordinate", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_rfc_7748_section_5_2_single_exchanges(scalar, coordinate, result):
    assert SecretKey(unhex(scalar)).exchange(unhex(coordinate)) == unhex(result)


def test_rfc_7748_section_5_2_iterated_exchanges():
    expected = {
        1: "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
        1000: "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51",
    }
    scalar = coordinate = BASE_POINT
    for iteration in range(1, 1001):
        scalar, coordinate = SecretKey(scalar).exchange(coordinate), scalar
        if iteration in expected:
            assert scalar == unhex(expected[iteration])


def test_rfc_7748_section_6_1_diffie_hellman():
    alice = unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice_public = unhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    bob_public = unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = unhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert public_key(alice) == SecretKey(alice).public_key() == alice_public
    assert public_key(bob) == SecretKey(bob).public_key() == bob_public
    assert is_valid_public_key(alice_public)
    assert is_valid_public_key(bob_public)
    assert SecretKey(alice).exchange(bob_public) == shared
    assert SecretKey(bob).exchange(alice_public) == shared


SMALL_ORDER = [name for name in BAD_POINTS if "order" in name]


def test_the_five_canonical_points_of_small_order_are_all_there():
    assert len(SMALL_ORDER) == 5


@pytest.mark.parametrize("name", BAD_POINTS)
def test_unusable_points_are_not_public_keys(name):
    assert not is_valid_public_key(BAD_POINTS[name])


@pytest.mark.parametrize("name", [*SMALL_ORDER, "zero, not canonical", "one, not canonical"])
def test_an_all_zero_exchange_is_refused(name):
    """RFC 7748, section 6.1: for every secret key, everybody would know the result."""
    with pytest.raises(ValueError, match="shared key"):
        SecretKey(bytes(range(32))).exchange(BAD_POINTS[name])


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_length_are_not_public_keys(size):
    assert not is_valid_public_key(bytes([9]) + bytes(size - 1) if size else b"")


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32))
def test_every_generated_public_key_is_valid(secret_key):
    assert is_valid_public_key(public_key(secret_key))


@pytest.mark.parametrize("point", [2, 9, 2**255 - 21], ids=["2", "base point", "largest"])
def test_other_points_up_to_the_largest_are_valid(point):
    assert is_valid_public_key(point.to_bytes(32, "little"))


# --- HKDF: RFC 5869 --------------------------------------------------------------------------------------------------

# The library's wrapper writes the info string itself (a length, a label, ids), so that the RFC's info cannot be fed
# to it.  So the RFC's vectors check the reference, which is HKDF written out, and the reference checks the wrapper.


@pytest.mark.parametrize(
    ("secret", "salt", "info", "output"),
    [
        (
            b"\x0b" * 22,
            bytes(range(0x0D)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_the_reference_is_hkdf(secret, salt, info, output):
    assert reference.hkdf_sha256(secret, salt, info, len(unhex(output))) == unhex(output)


@settings(max_examples=200)
@given(
    secret=st.binary(max_size=80),
    salt=st.binary(max_size=80),
    label=st.binary(max_size=80),
    context=st.binary(max_size=80),
    length=st.integers(1, 100),
)
def test_derive_is_hkdf_with_the_label_and_its_length_first(secret, salt, label, context, length):
    info = bytes([len(label)]) + label + context
    expected = reference.hkdf_sha256(secret, salt, info, length)
    assert derive(secret, salt=salt, label=label, context=context, length=length) == expected


def test_no_two_labels_are_equal_and_all_name_the_version():
    found = [value for name, value in vars(labels).items() if isinstance(value, bytes) and not name.startswith("_")]
    assert len(found) >= 6
    assert len(set(found)) == len(found)
    assert all(label.startswith(b"secagg/%d " % labels.PROTOCOL_VERSION) for label in found)


# --- The mask generator: NIST SP 800-38A, and GCM --------------------------------------------------------------------


def chunk(key: bytes, index: int, size: int = CHUNK_BYTES) -> bytes:
    buffer = chunk_buffer()
    Keystream(key).chunk_into(index, memoryview(buffer), size)
    return bytes(buffer[:size])


def plain_ctr(key: bytes, index: int, size: int, skip_blocks: int = 0) -> bytes:
    first_block = index.to_bytes(12, "big") + (2 + skip_blocks).to_bytes(4, "big")
    return reference.aes_ctr_keystream(key, first_block, size)


NIST_KEY = unhex("2b7e151628aed2a6abf7158809cf4f3c")


def test_the_reference_is_aes_128_ctr():
    """SP 800-38A, F.5.1.

    Its counter starts at f0..ff, but the counters of a chunk start at 2: the vector checks plain CTR, which in turn
    is what the mask generator must equal, for the vector's key and the same upper 96 bits among others.
    """
    plaintext = unhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = unhex(
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
        "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
    )
    keystream = reference.aes_ctr_keystream(NIST_KEY, bytes(range(0xF0, 0x100)), 64)
    assert bytes(a ^ b for a, b in zip(plaintext, keystream, strict=True)) == ciphertext


def test_gcm_test_case_2_through_the_generator():
    """McGrew and Viega, "The Galois/Counter Mode of Operation", test case 2: a zero block encrypted is a keystream."""
    assert chunk(bytes(16), 0, 16) == unhex("0388dace60b6a392f328c2b971b2fe78")


@pytest.mark.parametrize("key", [NIST_KEY, bytes(16), b"\xff" * 16, bytes(range(16))])
@pytest.mark.parametrize(
    "index", [0, 1, 2, 255, 2**32 - 1, 2**32, int.from_bytes(bytes(range(0xF0, 0xFC)), "big"), 2**96 - 1]
)
def test_a_chunk_is_plain_ctr(key, index):
    assert chunk(key, index) == plain_ctr(key, index, CHUNK_BYTES)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 64, 255, 256, 4096, CHUNK_BYTES - 1, CHUNK_BYTES])
def test_part_of_a_chunk_is_its_beginning(size):
    assert chunk(NIST_KEY, 3, size) == chunk(NIST_KEY, 3)[:size]


def test_the_last_block_of_a_chunk_has_the_last_counter():
    """A chunk's 2^14 blocks have counters 2 to 2^14 + 1: far from where 32 bits would wrap around."""
    blocks = CHUNK_BYTES // 16
    assert blocks == 2**14
    assert chunk(NIST_KEY, 5)[-16:] == plain_ctr(NIST_KEY, 5, 16, skip_blocks=blocks - 1)


def test_no_block_serves_two_chunks():
    drawn = b"".join(chunk(NIST_KEY, index) for index in range(4))
    blocks = {drawn[at : at + 16] for at in range(0, len(drawn), 16)}
    assert len(blocks) == 4 * 2**14


@pytest.mark.parametrize("size", [0, 1, 100, CHUNK_BYTES])
def test_a_chunk_leaves_what_follows_it_alone(size):
    """A chunk changes nothing beyond it but the 16 bytes of the tag, as documented."""
    buffer = bytearray(b"\xaa" * (CHUNK_BYTES + 64))
    Keystream(NIST_KEY).chunk_into(0, memoryview(buffer), size)
    assert buffer[size + 16 :] == b"\xaa" * (CHUNK_BYTES + 48 - size)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 100) | st.integers(0, CHUNK_BYTES + 100), max_size=12))
def test_a_reader_gives_the_keystream_in_pieces_of_any_size(sizes):
    """No byte is lost or given twice between chunks: the sharing polynomials are drawn from the stream."""
    reader = KeystreamReader(NIST_KEY)
    read = b"".join(reader(size) for size in sizes)
    assert read == reference.chunked_keystream(NIST_KEY, sum(sizes))


@pytest.mark.parametrize("size", [0, 15, 17, 24, 32])
def test_other_key_sizes_are_refused(size):
    """AES would take 24 and 32 bytes, and give another keystream than other implementations."""
    with pytest.raises(ValueError, match="16 bytes"):
        Keystream(bytes(size))


# --- Share encryption: AES-GCM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plaintext", "sealed"),
    [
        (b"", "58e2fccefa7e3061367f1d57a4e7455a"),
        (bytes(16), "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf"),
    ],
    ids=["test case 1", "test case 2"],
)
def test_gcm_vectors_with_the_zero_nonce(plaintext, sealed):
    """McGrew and Viega's first two vectors have the constant nonce of zeros that the library uses."""
    assert seal(bytes(16), plaintext, b"") == unhex(sealed)
    assert open_sealed(bytes(16), unhex(sealed), b"") == plaintext


def test_changed_ciphertexts_do_not_open():
    key, data = bytes(range(16)), b"associated"
    sealed = seal(key, b"thirty-six bytes of two shares, say.", data)
    assert open_sealed(key, sealed, data) == b"thirty-six bytes of two shares, say."
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 0x80
        with pytest.raises(AuthenticationError):
            open_sealed(key, bytes(damaged), data)
    for wrong_key, wrong_data in [(bytes(16), data), (key, b"associate"), (key, b"")]:
        with pytest.raises(AuthenticationError):
            open_sealed(wrong_key, sealed, wrong_data)


@pytest.mark.parametrize("sealed", [b"", bytes(15), bytes(16)])
def test_bytes_shorter_than_a_tag_do_not_open(sealed):
    with pytest.raises(AuthenticationError):
        open_sealed(bytes(range(16)), sealed, b"")
