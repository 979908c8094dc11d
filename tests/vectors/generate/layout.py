"""The files' JSON: bytes as hex, one field a line, and short values on one line."""

import json
from typing import Any

from secagg import Adversary, Parameters
from secagg.primitives.labels import PROTOCOL_VERSION

VERSION = "1"

GENERATOR = "tools/make_vectors.py"
"""The generator's place when the files were first written; it stays, so that their bytes stay."""

_WIDTH = 110


def document(description: str, fields: dict[str, str], **content: Any) -> dict[str, Any]:
    """Return a file's content, beginning with the common fields; ``fields`` tells where each field comes from."""
    header = {"version": VERSION, "protocol_version": PROTOCOL_VERSION, "generator": GENERATOR}
    plain: dict[str, Any] = to_plain({**header, "description": description, "fields": fields, **content})
    return plain


def group(description: str, source: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a group of primitives.json."""
    return {"description": description, "source": source, "cases": cases}


def parameters_of(params: Parameters) -> dict[str, Any]:
    """Return parameters as plain values."""
    return {
        "num_clients": params.num_clients,
        "threshold": params.threshold,
        "degree": params.degree,
        "vector_length": params.vector_length,
        "value_bits": params.value_bits,
        "ring_bits": params.ring_bits,
        "modular": params.modular,
        "adversary": params.adversary.value,
        "noise_components": params.noise_components,
        "corrupt_clients": params.corrupt_clients,
    }


def parameters_from(values: dict[str, Any]) -> Parameters:
    """Return parameters from plain values: the inverse of `parameters_of`."""
    return Parameters(**{**values, "adversary": Adversary(values["adversary"])})


def to_plain(value: Any) -> Any:
    """Return the value as in JSON: bytes in hex, keys as strings."""
    match value:
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case dict():
            return {str(key): to_plain(item) for key, item in value.items()}
        case list() | tuple():
            return [to_plain(item) for item in value]
        case _:
            return value


def to_text(value: Any, indent: int = 0) -> str:
    """Return JSON; lists of numbers and short values on one line."""
    line = json.dumps(value)
    if len(line) + indent <= _WIDTH or not isinstance(value, dict | list):
        return line
    if isinstance(value, list) and all(isinstance(item, int | bool) for item in value):
        return line
    inner, outer = " " * (indent + 1), " " * indent
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {to_text(item, indent + 1)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        items = [to_text(item, indent + 1) for item in value]
        opening, closing = "[", "]"
    body = ",\n".join(inner + item for item in items)
    return f"{opening}\n{body}\n{outer}{closing}"
