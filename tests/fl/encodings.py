"""Encodings with fixed bounds."""

from __future__ import annotations

from fl.quantization import UpdateEncoding
from fl.scales import Scales


def fixed_encoding(
    update_length: int, *, max_examples: int = 10, clip: float = 1.0, value_bits: int = 16, num_clients: int = 9
) -> UpdateEncoding:
    """Of updates of one tensor."""
    return UpdateEncoding(
        sizes=(update_length,), num_clients=num_clients, value_bits=value_bits, scales=Scales((clip,), max_examples)
    )
