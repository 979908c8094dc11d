"""The sum of several clients' masked inputs, as another process of the server hands it over, and in the journal."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from secagg import ClientId, Parameters
from secagg.algebra.ring import RingVector, word_dtype
from transport.durable.links import digest_of
from transport.durable.server_journal import Entry, EntryKind

_COUNT = struct.Struct(">I")
_CLIENT = struct.Struct(">I32s")


@dataclass(frozen=True, slots=True)
class PartialSum:
    """The sum of masked inputs, and whose they are.

    Attributes:
        digests: SHA-256 of each client's message: a message that comes again is recognised by it.
        vector: the sum, shape (vector_length,), dtype of the ring's words; it may have wrapped around.
    """

    digests: dict[ClientId, bytes] = field(repr=False)
    vector: RingVector = field(repr=False)

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """Return the clients whose inputs are in the sum."""
        return tuple(self.digests)

    def to_bytes(self) -> bytes:
        """Return the sum for a journal: number of clients, ids and digests, and the vector's words, little-endian."""
        heads = b"".join(_CLIENT.pack(*item) for item in self.digests.items())
        return b"".join((_COUNT.pack(len(self.digests)), heads, self.vector.tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes, params: Parameters) -> Self:
        """Return the sum that `to_bytes` wrote. ValueError if it was not written for these parameters."""
        dtype = word_dtype(params.ring_bits)
        vector_bytes = params.vector_length * dtype.itemsize
        count = _COUNT.unpack_from(data)[0] if len(data) >= _COUNT.size else -1
        if len(data) != _COUNT.size + count * _CLIENT.size + vector_bytes:
            raise ValueError(f"it has {len(data)} bytes for {count} clients")
        start = len(data) - vector_bytes
        digests = dict(_CLIENT.iter_unpack(data[_COUNT.size : start]))
        if len(digests) != count:
            raise ValueError("it names a client twice")
        return cls(digests, np.frombuffer(data, dtype, offset=start))


def most_bytes(params: Parameters) -> int:
    """Return the largest size of a sum's bytes in a journal."""
    words = params.vector_length * word_dtype(params.ring_bits).itemsize
    return _COUNT.size + params.num_clients * _CLIENT.size + words


def answers_of(entry: Entry, params: Parameters) -> Iterable[tuple[ClientId, bytes]]:
    """Return the clients whose messages an entry of the journal has, and the messages' SHA-256."""
    match entry.kind:
        case EntryKind.MESSAGE:
            return ((entry.client_id, digest_of(entry.data)),)
        case EntryKind.PARTIAL:
            return PartialSum.from_bytes(entry.data, params).digests.items()
    return ()
