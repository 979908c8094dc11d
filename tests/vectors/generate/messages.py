"""messages.json: each message as fields and as bytes. The fields' content is arbitrary: the codec does not check it."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from secagg import Adversary, Parameters, encode
from secagg.algebra import ring
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    Message,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.primitives.digest import sha256
from secagg.sharing import LIMBS, shares_to_bytes, uniform_field_elements

from .entropy import Stream
from .layout import document, parameters_of

TYPES: dict[type[Message], int] = {
    AdvertiseKeys: 1,
    PeerKeys: 2,
    ShareKeys: 3,
    PeerShares: 4,
    MaskedInput: 5,
    SurvivorList: 6,
    UnmaskingShares: 7,
    ConsistencyCheck: 8,
    ConsistencyProof: 9,
}

FIELDS = {
    "parameter_sets": "by name; they bound what is decoded",
    "messages.type": "the message's name; code: the number on the wire",
    "messages.fields": "in the order of the wire. Keys, ciphertexts and signatures are concatenated; flags are "
    "a string of 0 and 1, in the order of PeerKeys; masked_input is a list of integers, shares one of limbs. Noise "
    "corrections and pads are as on the wire",
    "messages.fields.masked_input_formula": "multiplier c: element j is c j modulo 2^ring_bits",
    "messages.encoded": "the bytes; where they are too many, encoded_start and encoded_sha256",
}

COMPLETE = Parameters(num_clients=5, threshold=3, degree=4, vector_length=9, value_bits=8, ring_bits=11)
SPARSE = Parameters(num_clients=20, threshold=3, degree=6, vector_length=5, value_bits=28, ring_bits=33)
SEMI_MALICIOUS = replace(COMPLETE, adversary=Adversary.SEMI_MALICIOUS)
MALICIOUS = replace(COMPLETE, adversary=Adversary.MALICIOUS)
SPARSE_MALICIOUS = replace(SPARSE, threshold=4, adversary=Adversary.MALICIOUS)
NOISY = replace(COMPLETE, noise_components=2, corrupt_clients=1)
WIDE = Parameters(num_clients=400, threshold=201, degree=399, vector_length=40_000, value_bits=7, ring_bits=16)

PARAMETER_SETS = {
    "complete": COMPLETE,
    "sparse": SPARSE,
    "complete_semi_malicious": SEMI_MALICIOUS,
    "complete_malicious": MALICIOUS,
    "sparse_malicious": SPARSE_MALICIOUS,
    "complete_noise": NOISY,
    "wide": WIDE,
}


def build_messages() -> dict[str, Any]:
    """Return the file."""
    stream = Stream("messages")
    cases = []
    for set_name, params in PARAMETER_SETS.items():
        made = _wide_messages(stream) if params is WIDE else _messages(stream, params)
        cases += [_case(f"{name}, {set_name}", set_name, params, message) for name, message in made]
    sets = {name: parameters_of(params) for name, params in PARAMETER_SETS.items()}
    return document("Messages as fields and as bytes.", FIELDS, parameter_sets=sets, messages=cases)


def sample(params: Parameters, kind: type[Message]) -> Message:
    """Return a message of a type, from its own stream."""
    made = _messages(Stream(f"sample {kind.__name__}"), params)
    return next(message for _, message in made if type(message) is kind)


def _messages(stream: Stream, params: Parameters) -> list[tuple[str, Message]]:
    """Return a message of each type, as it might occur."""
    session, signed = stream(32), params.is_signed
    peers = params.degree + 1
    ids = (0, 127, 2**16, 2**31, *range(2**32 - peers + 4, 2**32))
    flags = tuple(place not in (1, 4) for place in range(peers))
    survivors = tuple(place not in (0, 1, 4) for place in range(peers))
    held = sum(flags)
    shares = uniform_field_elements(9 * held, stream).reshape(held, 9)
    shares[0, 0], shares[0, 8] = 65520, 0
    elements = stream.integers(params.vector_length, params.ring_bits)
    elements[0] = params.modulus - 1
    vector = np.array(elements, dtype=ring.word_dtype(params.ring_bits))
    # Of client 0, which shared and vanished.
    pairwise_keys = Stream("sample pairwise keys")(16 * params.hands_over_pairwise_keys)
    noise, components = Stream("sample noise"), params.noise_components
    commitments = noise(32 * components)
    corrections = _elements(noise, components * (params.num_clients - params.threshold + 1))
    # Of one component, for each survivor that is held.
    pads = _elements(noise, sum(survivors) if components else 0)
    made: list[tuple[str, Message]] = [
        (
            "AdvertiseKeys",
            AdvertiseKeys(session, stream(32), stream(32), stream(32 * signed), stream(64 * signed)),
        ),
        (
            "PeerKeys",
            PeerKeys(
                session,
                ids,
                stream(32 * peers),
                stream(32 * peers),
                stream(32 * peers * signed),
                stream(64 * peers * signed),
            ),
        ),
        ("ShareKeys", ShareKeys(session, stream(32), stream(52 * (peers - 1)), commitments, corrections)),
        ("PeerShares", PeerShares(session, flags, stream(52 * (held - 1)))),
        ("MaskedInput", MaskedInput(session, vector)),
        ("SurvivorList", SurvivorList(session, survivors)),
        ("UnmaskingShares", UnmaskingShares(session, flags, shares, pairwise_keys, pads)),
    ]
    if signed:
        signers = sum(survivors) - 1
        views = b"" if params.is_complete else bytes([0x5E, 0x7B, 0x3D, 0x7F][:signers])
        made += [
            ("ConsistencyCheck", ConsistencyCheck(session, stream(64))),
            (
                "ConsistencyProof",
                ConsistencyProof(session, survivors, stream(64 * signers), views, stream(32 * 3 if views else 0)),
            ),
        ]
    return made


def _elements(stream: Stream, shares: int) -> bytes:
    """Return this many shares of seeds as bytes."""
    return shares_to_bytes(uniform_field_elements(LIMBS * shares, stream)) if shares else b""


def _wide_messages(stream: Stream) -> list[tuple[str, Message]]:
    """Return messages with lengths and counts whose shortest form has 2 or 4 bytes."""
    session = stream(32)
    vector = np.arange(40_000, dtype=np.uint64) * np.uint64(40_503) % np.uint64(2**16)
    shares = uniform_field_elements(9 * 20, stream).reshape(20, 9)
    return [
        ("128 flags, a count of one byte more", SurvivorList(session, (True,) * 128)),
        ("255 flags", SurvivorList(session, (False, True, True) * 85)),
        ("256 flags, a count of two bytes more", SurvivorList(session, (True, False) * 128)),
        ("400 flags, of which 20 are set", UnmaskingShares(session, ((False,) * 19 + (True,)) * 20, shares)),
        ("80000 bytes, a length of four bytes", MaskedInput(session, vector.astype("<u2"))),
    ]


def _case(name: str, set_name: str, params: Parameters, message: Message) -> dict[str, Any]:
    encoded = encode(message, params)
    case = {"name": name, "parameters": set_name, "type": type(message).__name__, "code": TYPES[type(message)]}
    values = {field.name: _plain(field.name, getattr(message, field.name)) for field in fields(message)}
    if len(encoded) > 10_000:
        case["fields"] = {"session_id": values["session_id"], "masked_input_formula": 40_503}
        return {**case, "encoded_start": encoded[:64], "encoded_sha256": sha256(encoded)}
    return {**case, "fields": values, "encoded": encoded}


def _plain(name: str, value: Any) -> Any:
    if name in ("shared", "survivors", "consistent", "held"):
        return "".join("01"[flag] for flag in value)
    return value.tolist() if isinstance(value, np.ndarray) else value
