"""Cases of expanding a short key or seed: masks, limbs, coefficients."""

from typing import Any

from secagg import masking, sharing
from secagg.algebra import ring
from secagg.primitives import kdf, labels, prg
from secagg.primitives.digest import sha256

from .entropy import Stream
from .layout import group


def _keystream(key: bytes, size: int) -> bytes:
    return prg.KeystreamReader(key)(size)


def mask_generator(stream: Stream) -> dict[str, Any]:
    """Return the generator's bytes."""
    cases = []
    for _ in range(2):
        key = stream(16)
        data = _keystream(key, 3 * prg.CHUNK_BYTES)
        at = prg.CHUNK_BYTES
        cases.append(
            {
                "key": key,
                "chunk_0": data[:48],
                "chunk_1": data[at : at + 48],
                "chunk_2": data[2 * at : 2 * at + 48],
                "around_first_boundary": data[at - 16 : at + 16],
                "first_300000_sha256": sha256(data[:300_000]),
                "first_786432_sha256": sha256(data),
            }
        )
    return group(
        "the mask generator's bytes: chunks of 262144, chunk i from counter block BE96(i) || BE32(2) on",
        "AES-128 in counter mode (NIST SP 800-38A); equal to AES-128-GCM of zeros with nonce BE96(i)",
        cases,
    )


def _expanded(key: bytes, length: int, ring_bits: int) -> Any:
    vector = ring.zeros(length, ring_bits)
    masking.accumulate(vector, [masking.Mask(key)])
    ring.reduce_in_place(vector, ring_bits)
    return vector


def masks(stream: Stream) -> dict[str, Any]:
    """Return masks in rings of many widths."""
    cases: list[dict[str, Any]] = []
    for ring_bits in (1, 7, 8, 12, 16, 20, 32, 33, 64):
        key, length = stream(16), 10
        elements = _expanded(key, length, ring_bits).tolist()
        cases.append({"key": key, "ring_bits": ring_bits, "length": length, "elements": elements})
    for ring_bits, length in ((12, 132_000), (20, 65_537), (33, 35_000)):
        key = stream(16)
        digest = sha256(_expanded(key, length, ring_bits).tobytes())
        cases.append({"key": key, "ring_bits": ring_bits, "length": length, "words_sha256": digest})
    return group(
        "a key's mask: element j is the j-th little-endian word of 8, 16, 32 or 64 bits of the generator's bytes, the "
        "smallest that holds ring_bits, of which the low ring_bits are taken; words_sha256 is of the reduced words",
        "docs/protocol.md",
        cases,
    )


def seed_limbs(stream: Stream) -> dict[str, Any]:
    """Return seeds as limbs."""
    seeds = (bytes(16), b"\xff" * 16, bytes(15) + b"\x01", b"\x80" + bytes(15), stream(16))
    cases = [{"seed": seed, "limbs": sharing.seed_to_limbs(seed).tolist()} for seed in seeds]
    return group(
        "a seed, read as a big-endian number, as 9 limbs of 15 bits, least significant first", "docs/protocol.md", cases
    )


def sharing_coefficients(stream: Stream) -> dict[str, Any]:
    """Return the coefficients of a client's polynomials."""
    cases = []
    for client_id, threshold in ((17, 2), (5, 4)):
        cases.append(_coefficients(stream(16), stream(32), client_id, threshold))
    # And one in which a word is refused, which happens once in 120 times.
    session = stream(32)
    while not (case := _coefficients(stream(16), session, 9, 3))["refused_words"]:
        pass
    cases.append(case)
    return group(
        "the random coefficients of a client's polynomials: big-endian 16-bit words of the generator's bytes, those of "
        "65521 or more left out; row i has the coefficients of x^(i+1), of the 9 limbs of the mask key's seed, then of "
        "the 9 of the self-mask seed",
        "RFC 5869 with salt = session id, info = label, client id: the generator's key",
        cases,
    )


def _coefficients(seed: bytes, session: bytes, client_id: int, threshold: int) -> dict[str, Any]:
    context = client_id.to_bytes(4, "big")
    key = kdf.derive(seed, salt=session, label=labels.SHARING_COEFFICIENTS, context=context, length=prg.KEY_BYTES)
    count = 18 * (threshold - 1)
    source = sharing.coefficient_source(seed, session, client_id)
    rows = sharing.uniform_field_elements(count, source).reshape(-1, 18).tolist()
    data = _keystream(key, 2 * count)
    words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    return {
        "session_id": session,
        "client_id": client_id,
        "sharing_seed": seed,
        "threshold": threshold,
        "key": key,
        "refused_words": [word for word in words if word >= 65521],
        "coefficients": rows,
    }
