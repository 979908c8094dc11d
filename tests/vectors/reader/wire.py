"""Messages as bytes: the few msgpack forms that occur, written and read strictly."""

from typing import Any

from .errors import Malformed
from .sharing import pack_shares, unpack_shares

CODES = {
    "AdvertiseKeys": 1,
    "PeerKeys": 2,
    "ShareKeys": 3,
    "PeerShares": 4,
    "MaskedInput": 5,
    "SurvivorList": 6,
    "UnmaskingShares": 7,
    "ConsistencyCheck": 8,
    "ConsistencyProof": 9,
}
FROM_CLIENT = {"AdvertiseKeys", "ShareKeys", "MaskedInput", "UnmaskingShares", "ConsistencyCheck"}
FIELD_COUNTS = {1: 4, 2: 5, 3: 4, 4: 3, 5: 1, 6: 2, 7: 5, 8: 1, 9: 5}

Fields = dict[str, Any]
"""Bytes for byte strings, lists of integers for ids, vectors and limbs, strings of 0 and 1 for flags."""


def write_int(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    form = next(form for form in range(4) if number < 1 << 8 * 2**form)
    return bytes([0xCC + form]) + number.to_bytes(2**form, "big")


def write_bytes(data: bytes) -> bytes:
    form = next(form for form in range(3) if len(data) < 1 << 8 * 2**form)
    return bytes([0xC4 + form]) + len(data).to_bytes(2**form, "big") + data


def pack_vector(elements: list[int], ring_bits: int) -> bytes:
    """Return one big number whose bits are the elements', least significant first."""
    digits = "".join(f"{element:0{ring_bits}b}" for element in reversed(elements))
    return int(digits, 2).to_bytes((len(elements) * ring_bits + 7) // 8, "little")


def unpack_vector(data: bytes, length: int, ring_bits: int) -> list[int]:
    digits = f"{int.from_bytes(data, 'little'):0{length * ring_bits}b}"
    if len(digits) > length * ring_bits:
        raise Malformed("a bit after the vector")
    return [int(digits[len(digits) - (i + 1) * ring_bits : len(digits) - i * ring_bits], 2) for i in range(length)]


def pack_flags(flags: str) -> bytes:
    return pack_vector([int(flag) for flag in flags], 1)


def encode(kind: str, fields: Fields, ring_bits: int) -> bytes:
    """Return a message's bytes."""
    items = [write_bytes(fields["session_id"])]
    for name, value in fields.items():
        match name:
            case "session_id":
                continue
            case "client_ids":
                items.append(write_bytes(b"".join(i.to_bytes(4, "big") for i in value)))
            case "masked_input":
                items.append(write_bytes(pack_vector(value, ring_bits)))
            case "shares":
                items.append(write_bytes(b"".join(map(pack_shares, value))))
            case "shared" | "survivors" | "consistent" | "held":
                items += [write_int(len(value)), write_bytes(pack_flags(value))]
            case _:
                items.append(write_bytes(value))
    return bytes([0x90 + 2 + len(items), 1, CODES[kind]]) + b"".join(items)


class Reader:
    """Reads from front to back."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    def take(self, size: int) -> bytes:
        taken, self._left = self._left[:size], self._left[size:]
        if len(taken) < size:
            raise Malformed("cut short")
        return taken

    def integer(self) -> int:
        head = self.take(1)
        if head[0] < 0x80:
            return head[0]
        if not 0xCC <= head[0] <= 0xCF:
            raise Malformed("not an unsigned integer")
        payload = self.take(2 ** (head[0] - 0xCC))
        number = int.from_bytes(payload, "big")
        if write_int(number) != head + payload:
            raise Malformed("not the shortest integer")
        return number

    def byte_string(self, size: int | None = None, multiple: int = 1, most: int | None = None) -> bytes:
        """Return a byte string of ``size``, or of a number of items of a size."""
        head = self.take(1)
        if not 0xC4 <= head[0] <= 0xC6:
            raise Malformed("not a byte string")
        length = self.take(2 ** (head[0] - 0xC4))
        number = int.from_bytes(length, "big")
        if number < (0, 2**8, 2**16)[head[0] - 0xC4]:
            raise Malformed("not the shortest length")
        if size is not None and number != size:
            raise Malformed(f"{number} bytes instead of {size}")
        if number % multiple or (most is not None and number > multiple * most):
            raise Malformed(f"{number} bytes for items of {multiple}")
        return self.take(number)

    def flags(self, most: int) -> str:
        count = self.integer()
        if count > most:
            raise Malformed("too many flags")
        data = self.byte_string((count + 7) // 8)
        return "".join(map(str, unpack_vector(data, count, 1))) if count else ""

    def end(self) -> None:
        if self._left:
            raise Malformed("trailing bytes")


def most_bytes(params: dict[str, Any]) -> int:
    """Return the largest size of a message."""
    peers = params["degree"] + 1
    signed = params["adversary"] != "honest-but-curious"
    flags = peers // 8 + 1
    view = 0 if params["degree"] == params["num_clients"] - 1 else flags + 32 * peers
    components = params["noise_components"]
    longest: int = max(
        peers * (68 + 96 * signed),
        peers * 52 + 32 + flags + components * (32 + 18 * (peers - params["threshold"] + 1)),
        peers * (34 + 18 * components) + flags,
        (params["vector_length"] * params["ring_bits"] + 7) // 8,
        (peers * (64 + view) + flags) * signed,
    )
    return 96 + longest


def decode(data: bytes, params: dict[str, Any], *, from_client: bool) -> tuple[str, Fields]:
    """Return the message, or raise Malformed."""
    if len(data) > most_bytes(params):
        raise Malformed("too long")
    reader = Reader(data)
    head = reader.take(1)[0]
    signed = params["adversary"] != "honest-but-curious"
    if head >> 4 != 9:
        raise Malformed("not a short array")
    if reader.integer() != 1:
        raise Malformed("another version")
    code = reader.integer()
    kinds = {number: kind for kind, number in CODES.items() if (kind in FROM_CLIENT) == from_client}
    if code not in kinds or (code > 7 and not signed):
        raise Malformed("unknown type")
    if head & 15 != 3 + FIELD_COUNTS[code]:
        raise Malformed("another number of fields")
    fields = {"session_id": reader.byte_string(32), **_fields(kinds[code], reader, params, signed)}
    reader.end()
    return kinds[code], fields


def _elements(reader: Reader, most: int) -> bytes:
    data = reader.byte_string(multiple=18, most=most)
    if unpack_shares(data) is None:
        raise Malformed("a noise share outside the field")
    return data


def _fields(kind: str, reader: Reader, params: dict[str, Any], signed: bool) -> Fields:
    degree, ring_bits, components = params["degree"], params["ring_bits"], params["noise_components"]
    match kind:
        case "AdvertiseKeys":
            names = ("channel_public_key", "mask_public_key", "identity_key", "signature")
            return {
                name: reader.byte_string(size)
                for name, size in zip(names, (32, 32, 32 * signed, 64 * signed), strict=True)
            }
        case "PeerKeys":
            data = reader.byte_string(multiple=4, most=degree + 1)
            ids = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]
            if ids != sorted(set(ids)):
                raise Malformed("ids do not ascend")
            names = ("channel_public_keys", "mask_public_keys", "identity_keys", "signatures")
            sizes = (32, 32, 32 * signed, 64 * signed)
            keys = {name: reader.byte_string(size * len(ids)) for name, size in zip(names, sizes, strict=True)}
            return {"client_ids": ids, **keys}
        case "ShareKeys":
            return {
                "seed_commitment": reader.byte_string(32),
                "encrypted_shares": reader.byte_string(multiple=52, most=degree),
                "noise_commitments": reader.byte_string(32 * components),
                "noise_corrections": _elements(reader, components * (params["num_clients"] - params["threshold"] + 1)),
            }
        case "PeerShares":
            return {
                "shared": reader.flags(degree + 1),
                "encrypted_shares": reader.byte_string(multiple=52, most=degree),
            }
        case "MaskedInput":
            data = reader.byte_string((params["vector_length"] * ring_bits + 7) // 8)
            return {"masked_input": unpack_vector(data, params["vector_length"], ring_bits)}
        case "SurvivorList":
            return {"survivors": reader.flags(degree + 1)}
        case "UnmaskingShares":
            held = reader.flags(degree + 1)
            data = reader.byte_string(18 * held.count("1"))
            shares = [unpack_shares(data[at : at + 18]) for at in range(0, len(data), 18)]
            if None in shares:
                raise Malformed("a share outside the field")
            hand_over = degree == params["num_clients"] - 1 or not signed
            return {
                "held": held,
                "shares": shares,
                "pairwise_keys": reader.byte_string(multiple=16, most=degree * hand_over),
                "noise_pads": _elements(reader, components * held.count("1")),
            }
        case "ConsistencyCheck":
            return {"signature": reader.byte_string(64)}
        case _:
            consistent = reader.flags(degree + 1)
            signatures = reader.byte_string(multiple=64, most=degree)
            views = 0 if degree == params["num_clients"] - 1 else len(signatures) // 64
            common = reader.byte_string(views * ((len(consistent) + 7) // 8))
            others = reader.byte_string(multiple=32, most=views * len(consistent))
            return {"consistent": consistent, "signatures": signatures, "common": common, "others": others}
