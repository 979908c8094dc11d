"""Check messages.json, and the bytes of negative.json."""

from typing import Any

from . import wire
from .crypto import sha256
from .errors import Malformed, Mismatch, expect


def verify_messages(content: dict[str, Any]) -> int:
    """Check every message's bytes from its fields, and its fields from its bytes."""
    for case in content["messages"]:
        name, kind, params = case["name"], case["type"], content["parameter_sets"][case["parameters"]]
        expect(f"{name}: code", case["code"], wire.CODES[kind])
        fields = fields_of(case["fields"], params)
        encoded = wire.encode(kind, fields, params["ring_bits"])
        if "encoded" in case:
            expect(f"{name}: bytes", case["encoded"], encoded.hex())
        else:
            expect(f"{name}: first bytes", case["encoded_start"], encoded[:64].hex())
            expect(f"{name}: hash of the bytes", case["encoded_sha256"], sha256(encoded).hex())
        decoded = wire.decode(encoded, params, from_client=kind in wire.FROM_CLIENT)
        expect(f"{name}: fields", (kind, fields), decoded)
        expect(f"{name}: order of the fields", list(fields), list(decoded[1]))
    return len(content["messages"])


def fields_of(values: dict[str, Any], params: dict[str, Any]) -> wire.Fields:
    """Return the fields, with byte strings for hex."""
    fields: wire.Fields = {}
    for name, value in values.items():
        if name == "masked_input_formula":
            elements = [value * j % 2 ** params["ring_bits"] for j in range(params["vector_length"])]
            fields["masked_input"] = elements
        elif isinstance(value, str) and name not in ("shared", "survivors", "consistent", "held"):
            fields[name] = bytes.fromhex(value)
        else:
            fields[name] = value
    return fields


def verify_bad_bytes(content: dict[str, Any]) -> int:
    """Check that each case is refused."""
    for case in content["bytes"]:
        params = content["parameter_sets"][case["parameters"]]
        try:
            wire.decode(bytes.fromhex(case["bytes"]), params, from_client=case["from"] == "client")
        except Malformed:
            continue
        raise Mismatch(f"accepted as a message: {case['reason']}")
    return len(content["bytes"])
