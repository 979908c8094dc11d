"""The server's offer of a session: its parameters, the encoding of replies, and the message to answer.

The whole offer is the session's context: clients with different offers cannot agree on masks.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgpack

from fl.aggregation.scales import Scales
from fl.errors import ConfigError
from fl.integrations.flower.errors import OfferError
from fl.integrations.private_records import PrivateRecords, check_terms
from fl.integrations.records import RecordEncoding
from fl.privacy.terms import PrivateTerms
from fl.strict_msgpack import unpack_bounded
from secagg import Parameters, SecAggError

_VERSION = 4
_LABEL = b"secagg/fl/flower-session/1"

MOST_ARRAYS = 1 << 14
"""The most arrays of a message that is answered through a session."""

_KINDS = {
    "sizes": list,
    "scales": list,
    "weight": str,
    "value_bits": int,
    "max_metrics": int,
    "metric_bound": float,
}


@dataclass(frozen=True, slots=True)
class RoundOffer:
    """The terms of a session, before it begins.

    Attributes:
        params: the protocol's parameters.
        encoding: the encoding of replies as vectors.
        nonce: fresh for each session.
        content: `content_digest` of the message that clients will answer; it is sent to them in the third round.
        run: `run_digest` of the run as clients must know it.
        privacy: the terms of a private session, whose inputs are changes with noise; None for other sessions.
    """

    params: Parameters
    encoding: RecordEncoding
    nonce: bytes
    content: bytes
    run: bytes
    privacy: PrivateTerms | None = None

    def to_bytes(self) -> bytes:
        """Return the offer as bytes; equal offers give equal bytes."""
        encoding = {name: getattr(self.encoding, name) for name in _KINDS}
        scales = self.encoding.scales
        encoding["scales"] = [] if scales is None else [scales.bounds, scales.max_weight]
        privacy = None if self.privacy is None else self.privacy.to_map()
        fields = [self.params.to_bytes(), encoding, self.nonce, self.content, self.run, privacy]
        return bytes(msgpack.packb([_VERSION, *fields]))

    @property
    def measures(self) -> bool:
        """Return whether the session only measures the sizes of updates."""
        return self.encoding.scales is None and self.privacy is None

    @property
    def private(self) -> PrivateRecords | None:
        """Return the encoding of changes in a private session; None for other sessions."""
        return None if self.privacy is None else PrivateRecords(self.privacy.mechanism, self.context)

    @property
    def asked(self) -> bytes:
        """Return all that the app's reply depends on: sessions with equal values may use the same reply."""
        return self.content + self.run

    @property
    def context(self) -> bytes:
        """Return the digest that the session is bound to, 32 bytes."""
        return hashlib.sha256(_LABEL + self.to_bytes()).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> "RoundOffer":
        """Return the offer that `to_bytes` encoded; raise OfferError for another version or impossible numbers."""
        try:
            version, params, encoding, nonce, content, run, privacy = unpack_bounded(
                data, max_items=128 + 2 * MOST_ARRAYS
            )
        except (ValueError, TypeError) as error:
            raise OfferError("the message that opened the session is not an offer") from error
        if version != _VERSION:
            raise OfferError(f"the offer has version {version!r}, but this client needs version {_VERSION}")
        if not all(isinstance(field, bytes) for field in (params, nonce, content, run)):
            raise OfferError("the message that opened the session is not an offer")
        encoding = _checked(encoding)
        sizes, scales = encoding.pop("sizes"), encoding.pop("scales")
        if len(sizes) > MOST_ARRAYS or not all(type(size) is int for size in sizes):
            raise OfferError(f"sizes in the offer must be at most {MOST_ARRAYS} whole numbers")
        try:
            parameters = Parameters.from_bytes(params)
            offer = cls(
                parameters,
                RecordEncoding(
                    sizes=tuple(sizes), num_clients=parameters.num_clients, scales=_scales(scales), **encoding
                ),
                nonce,
                content,
                run,
                None if privacy is None else PrivateTerms.from_map(privacy),
            )
            check_terms(offer.privacy, offer.params)
        except (SecAggError, ConfigError, ValueError) as error:
            raise OfferError(f"the offer has impossible numbers: {error}") from None
        wanted = (offer.encoding.vector_length, offer.encoding.value_bits)
        if offer.privacy is not None:
            if offer.encoding.scales is not None or sum(offer.encoding.sizes) != offer.privacy.mechanism.length:
                raise OfferError("the offered noise is not for the offered arrays")
            wanted = (offer.privacy.mechanism.dimension, offer.privacy.mechanism.ring_bits)
        if wanted != (offer.params.vector_length, offer.params.value_bits):
            raise OfferError("the offered session's vector length does not fit the offered encoding")
        if offer.to_bytes() != data:
            raise OfferError("the offer is not in its canonical form")
        return offer


def _scales(values: list[Any]) -> Scales | None:
    """Return the bounds in an offer; raise ConfigError if one is out of range."""
    if not values:
        return None
    bounds, max_weight = values if len(values) == 2 else ([], None)
    if type(bounds) is not list or type(max_weight) is not int or not all(type(bound) is float for bound in bounds):
        raise OfferError("scales in the offer must be a list of bounds, floats, and the weights' bound, an int")
    return Scales(tuple(bounds), max_weight)


def _checked(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or values.keys() != _KINDS.keys():
        raise OfferError("the fields of the offer are not those of this version")
    for name, kind in _KINDS.items():
        if type(values[name]) is not kind:
            raise OfferError(f"{name} in the offer must be of type {kind.__name__}")
    return values
