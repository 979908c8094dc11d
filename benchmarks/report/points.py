"""Figures of a scaling point that follow from others."""

from benchmarks.results import Entry


def vector_bytes(entry: Entry) -> int:
    """The bytes of a masked vector: its elements, packed."""
    bits: int = entry["params"]["length"] * entry["ring_bits"]
    return -(-bits // 8)


def key_bytes(entry: Entry) -> int:
    """What a client moves besides its masked vector: keys, shares, lists and frames."""
    return int(entry["client_bytes_up"] + entry["client_bytes_down"] - vector_bytes(entry))
