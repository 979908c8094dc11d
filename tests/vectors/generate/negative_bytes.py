"""Invalid bytes: each a valid message with one fault."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack

from secagg import CodecError, Parameters, decode_client_message, decode_server_message, encode, max_message_bytes
from secagg.messages import (
    AdvertiseKeys,
    ClientMessage,
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

from .messages import COMPLETE, MALICIOUS, NOISY, PARAMETER_SETS, SPARSE_MALICIOUS, TYPES, sample

BadBytes = Iterator[tuple[str, str, type[Message], bytes]]
"""Parameter set, reason, the type that the decoder expects, bytes."""


def bad_bytes() -> list[dict[str, Any]]:
    """Return the cases, each checked against the library."""
    cases = []
    for makers in (_cut_and_long, _forms, _envelope, _sizes, _items, _contents):
        for set_name, reason, kind, data in makers():
            case = {"parameters": set_name, "from": _sender(kind), "reason": reason, "bytes": data}
            cases.append(
                {**case, "error": "CodecError", "library_says": _refusal(PARAMETER_SETS[set_name], kind, data)}
            )
    return cases


def _sender(kind: type[Message]) -> str:
    return "client" if issubclass(kind, ClientMessage) else "server"


def _refusal(params: Parameters, kind: type[Message], data: bytes) -> str:
    decode = decode_client_message if _sender(kind) == "client" else decode_server_message
    try:
        decode(data, params)
    except CodecError as error:
        return str(error)
    raise AssertionError(f"{data.hex()} is accepted as a {kind.__name__}")


def _good(kind: type[Message], params: Parameters = MALICIOUS) -> list[Any]:
    """Return the items of a message's array."""
    items: list[Any] = msgpack.unpackb(encode(sample(params, kind), params))
    return items


def _packed(items: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(items)
    return packed


def _changed(kind: type[Message], index: int, value: Any, params: Parameters = MALICIOUS) -> bytes:
    items = _good(kind, params)
    items[index] = value
    return _packed(items)


def _cut_and_long() -> BadBytes:
    name = "complete_malicious"
    yield name, "nothing at all", AdvertiseKeys, b""
    for kind in TYPES:
        data = encode(sample(MALICIOUS, kind), MALICIOUS)
        yield name, f"{kind.__name__} without its last byte", kind, data[:-1]
        yield name, f"{kind.__name__} with a byte after its end", kind, data + b"\x00"
    data = encode(sample(MALICIOUS, SurvivorList), MALICIOUS)
    for size in (1, 2, 3, 4, 5, 20, 37, 38, 39):
        yield name, f"SurvivorList, only the first {size} bytes", SurvivorList, data[:size]
    limit = max_message_bytes(COMPLETE)
    head = _packed(_good(SurvivorList, COMPLETE))
    yield "complete", "more bytes than any message of these parameters has", SurvivorList, head.ljust(limit + 1, b"\0")


def _forms() -> BadBytes:
    name = "complete_malicious"
    items = _good(SurvivorList)
    _, _, session, count, flags = items
    tail = _packed([session, count, flags])[1:]
    bin8, fields = b"\xc4\x20", _packed([count, flags])[1:]
    yield name, "the array's length in two bytes", SurvivorList, b"\xdc\x00\x05\x01\x06" + tail
    yield name, "the array's length in four bytes", SurvivorList, b"\xdd\x00\x00\x00\x05\x01\x06" + tail
    yield name, "the version in two bytes", SurvivorList, b"\x95\xcc\x01\x06" + tail
    yield name, "the version as a signed integer", SurvivorList, b"\x95\xd0\x01\x06" + tail
    yield name, "the type in two bytes", SurvivorList, b"\x95\x01\xcc\x06" + tail
    yield name, "the type in three bytes", SurvivorList, b"\x95\x01\xcd\x00\x06" + tail
    yield name, "the session id's length in two bytes", SurvivorList, b"\x95\x01\x06\xc5\x00\x20" + session + fields
    long_form = b"\xc6\x00\x00\x00\x20" + session + fields
    yield name, "the session id's length in four bytes", SurvivorList, b"\x95\x01\x06" + long_form
    yield name, "the session id as a string", SurvivorList, b"\x95\x01\x06\xd9\x20" + session + fields
    head = b"\x95\x01\x06" + bin8 + session
    packed_flags = _packed([flags])[1:]
    yield name, "the count of flags in two bytes", SurvivorList, head + b"\xcc\x05" + packed_flags
    yield name, "the count of flags in five bytes", SurvivorList, head + b"\xce\x00\x00\x00\x05" + packed_flags
    yield name, "the count of flags in nine bytes", SurvivorList, head + b"\xcf" + bytes(7) + b"\x05" + packed_flags
    yield name, "the count of flags negative", SurvivorList, head + b"\xff" + packed_flags
    yield name, "the count of flags a float", SurvivorList, head + _packed([5.0])[1:] + packed_flags
    yield name, "the count of flags nil", SurvivorList, head + b"\xc0" + packed_flags
    yield name, "the count of flags true", SurvivorList, head + b"\xc3" + packed_flags
    yield name, "the flags' length in two bytes", SurvivorList, head + b"\x05\xc5\x00\x01" + flags
    yield name, "the flags as an array", SurvivorList, head + b"\x05\x91" + b"\x01"
    yield name, "the flags as an extension", SurvivorList, head + b"\x05\xd4\x00" + flags
    yield (
        name,
        "a length of four bytes that claims 4294967295",
        SurvivorList,
        head + b"\x05\xc6\xff\xff\xff\xff" + flags,
    )
    keys = _good(PeerKeys)
    short = _packed(keys[:7])[1:] + b"\xc6\x00\x00\x01\x40" + keys[7]
    yield name, "320 bytes of signatures, their length in four bytes", PeerKeys, b"\x98" + short


def _envelope() -> BadBytes:
    name, items = "complete_malicious", _good(SurvivorList)
    yield name, "a map instead of an array", SurvivorList, b"\x85" + _packed(items)[1:]
    yield name, "a number instead of an array", SurvivorList, b"\x05"
    for version in (0, 2, 2**32):
        yield name, f"protocol version {version}", SurvivorList, _packed([version, *items[1:]])
    for code in (0, 10, 127, 128, 2**16):
        yield name, f"unknown type {code}", SurvivorList, _packed([1, code, *items[2:]])
    yield name, "a server's type from a client", AdvertiseKeys, _packed(items)
    yield name, "a client's type from the server", PeerKeys, _packed(_good(AdvertiseKeys))
    yield "complete", "ConsistencyCheck where nothing is signed", AdvertiseKeys, _packed(_good(ConsistencyCheck))
    yield "complete", "ConsistencyProof where nothing is signed", PeerKeys, _packed(_good(ConsistencyProof))
    yield name, "an empty array", SurvivorList, _packed([])
    yield name, "no session id", SurvivorList, _packed(items[:2])
    yield name, "a field too few", SurvivorList, _packed(items[:-1])
    yield name, "a field too many", SurvivorList, _packed([*items, b""])
    for size in (0, 31, 33):
        data = _packed([1, 6, bytes(size), *items[3:]])
        yield name, f"a session id of {size} bytes", SurvivorList, data


def _sizes() -> BadBytes:
    name = "complete_malicious"
    for index, what in ((3, "channel public key"), (4, "mask public key"), (5, "identity key"), (6, "signature")):
        good = _good(AdvertiseKeys)[index]
        yield name, f"AdvertiseKeys: {what} a byte short", AdvertiseKeys, _changed(AdvertiseKeys, index, good[1:])
        yield name, f"AdvertiseKeys: {what} a byte long", AdvertiseKeys, _changed(AdvertiseKeys, index, good + b"\0")
    unsigned = _packed(_good(AdvertiseKeys, COMPLETE))
    yield name, "AdvertiseKeys without identity in malicious mode", AdvertiseKeys, unsigned
    signed = _packed(_good(AdvertiseKeys))
    yield "complete", "AdvertiseKeys with an identity where nothing is signed", AdvertiseKeys, signed
    for index, what in ((4, "channel keys"), (5, "pairwise keys"), (6, "identity keys"), (7, "signatures")):
        good = _good(PeerKeys)[index]
        yield name, f"PeerKeys: {what} a byte short", PeerKeys, _changed(PeerKeys, index, good[:-1])
        yield name, f"PeerKeys: {what} of one client too many", PeerKeys, _changed(PeerKeys, index, good + good[:32])
    yield name, "ShareKeys: a commitment of 31 bytes", ShareKeys, _changed(ShareKeys, 3, bytes(31))
    yield name, "ConsistencyCheck: a signature of 63 bytes", ConsistencyCheck, _changed(ConsistencyCheck, 3, bytes(63))
    size = len(_good(MaskedInput)[3])
    for wrong in (size - 1, size + 1):
        yield name, f"MaskedInput of {wrong} bytes", MaskedInput, _changed(MaskedInput, 3, bytes(wrong))
    shares = _good(UnmaskingShares)[5]
    yield name, "UnmaskingShares: a share too few", UnmaskingShares, _changed(UnmaskingShares, 5, shares[18:])
    yield name, "UnmaskingShares: a share too many", UnmaskingShares, _changed(UnmaskingShares, 5, shares + shares[:18])
    for kind, index, what in (
        (ShareKeys, 5, "commitments"),
        (ShareKeys, 6, "corrections"),
        (UnmaskingShares, 7, "pads"),
    ):
        good = _good(kind, NOISY)[index]
        label, unit = f"{kind.__name__}: noise {what}", 32 if what == "commitments" else 18
        yield name, f"{label} where there are no components", kind, _changed(kind, index, good[:unit])
        yield "complete_noise", f"{label} a byte short", kind, _changed(kind, index, good[:-1], NOISY)
        if unit == 18:
            outside = b"\xff\xf1" + good[2:]
            yield "complete_noise", f"{label} with a limb of 65521", kind, _changed(kind, index, outside, NOISY)
    sparse = "sparse_malicious"
    yield (
        sparse,
        "UnmaskingShares: a pairwise key, in a signed mode on a sparse graph",
        UnmaskingShares,
        _changed(UnmaskingShares, 6, bytes(16), SPARSE_MALICIOUS),
    )


def _items() -> BadBytes:
    name = "complete_malicious"
    yield name, "PeerKeys: ids of 19 bytes", PeerKeys, _changed(PeerKeys, 3, _good(PeerKeys)[3][:-1])
    six = b"".join(place.to_bytes(4, "big") for place in range(6))
    yield name, "PeerKeys: ids of one client more than degree + 1", PeerKeys, _changed(PeerKeys, 3, six)
    yield name, "UnmaskingShares: pairwise keys, 15 bytes", UnmaskingShares, _changed(UnmaskingShares, 6, bytes(15))
    five = bytes(16 * 5)
    yield (
        name,
        "UnmaskingShares: one pairwise key more than degree",
        UnmaskingShares,
        _changed(UnmaskingShares, 6, five),
    )
    for kind, index, count in ((ShareKeys, 4, 4), (PeerShares, 5, 4)):
        what = f"{kind.__name__}: encrypted shares"
        yield name, f"{what}, 51 bytes", kind, _changed(kind, index, bytes(51))
        yield name, f"{what}, one more than degree", kind, _changed(kind, index, bytes(52 * (count + 1)))
    proof = ConsistencyProof
    yield name, "ConsistencyProof: signatures of 65 bytes", proof, _changed(proof, 5, bytes(65))
    yield name, "ConsistencyProof: signatures, one more than degree", proof, _changed(proof, 5, bytes(64 * 5))
    yield name, "ConsistencyProof: common members on the complete graph", proof, _changed(proof, 6, b"\x1f")
    yield name, "ConsistencyProof: other members on the complete graph", proof, _changed(proof, 7, bytes(32))
    sparse, params = "sparse_malicious", SPARSE_MALICIOUS
    common, others = _good(proof, params)[6:8]
    yield sparse, "ConsistencyProof: common, a byte short", proof, _changed(proof, 6, common[1:], params)
    yield sparse, "ConsistencyProof: others, a byte short", proof, _changed(proof, 7, others[1:], params)
    many = bytes(32 * (7 * 3 + 1))
    yield sparse, "ConsistencyProof: more others than the views have members", proof, _changed(proof, 7, many, params)


def _contents() -> BadBytes:
    name = "complete_malicious"
    message = sample(MALICIOUS, PeerKeys)
    if not isinstance(message, PeerKeys):
        raise TypeError("no sample of PeerKeys")
    ids = message.client_ids
    for reason, wrong in (
        ("two clients in descending order", (ids[1], ids[0], *ids[2:])),
        ("one client twice", (ids[0], ids[0], *ids[2:])),
        ("the last before the others", (ids[-1], *ids[:-1])),
    ):
        yield name, f"PeerKeys: {reason}", PeerKeys, encode(replace(message, client_ids=wrong), MALICIOUS)
    for kind, index in ((SurvivorList, 4), (PeerShares, 4), (UnmaskingShares, 4), (ConsistencyProof, 4)):
        flags = _good(kind)[index][0]
        padded = _changed(kind, index, bytes([flags | 0x20]))
        yield name, f"{kind.__name__}: a bit after the 5 flags is set", kind, padded
        more = _changed(kind, index, bytes([flags, 0]))
        yield name, f"{kind.__name__}: a byte of flags too many", kind, more
    yield name, "SurvivorList: a byte of flags too few", SurvivorList, _changed(SurvivorList, 4, b"")
    yield (
        name,
        "SurvivorList: one flag more than degree + 1",
        SurvivorList,
        _packed([*_good(SurvivorList)[:3], 6, b"\x1f"]),
    )
    packed = _good(MaskedInput)[3]
    bad = packed[:-1] + bytes([packed[-1] | 0x80])
    yield name, "MaskedInput: a bit after the 99 of the vector is set", MaskedInput, _changed(MaskedInput, 3, bad)
    shares = _good(UnmaskingShares)[5]
    for limb in (65521, 65535):
        bad = limb.to_bytes(2, "big") + shares[2:]
        yield name, f"UnmaskingShares: a limb of {limb}", UnmaskingShares, _changed(UnmaskingShares, 5, bad)
