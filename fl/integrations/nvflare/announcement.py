"""The server's announcement of a round: the session is bound to all of it, so all sites were told the same."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import msgpack

from fl.aggregation.scales import Scales
from fl.errors import ConfigError
from fl.integrations.nvflare.errors import ModelError, TaskAnnouncementError
from fl.integrations.nvflare.model_encoding import Model, ModelEncoding
from fl.integrations.private_records import PrivateRecords, check_terms
from fl.privacy.terms import PrivateTerms
from fl.strict_msgpack import unpack_bounded
from secagg import ClientId, Parameters, SecAggError

Scalar: TypeAlias = bool | int | float | str | None

_VERSION = 5
_MAX_BYTES = 1 << 20
# One for each site, one for each entry of the model, and a few more.
_MAX_ITEMS = 1 << 17
_MOST_TERMS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAnnouncement:
    """The announcement of one round of one job.

    Attributes:
        job_id: NVFlare's id of the job.
        round, start_round, total_rounds: NVFlare's numbers of this round and the first one, and the number of rounds.
        meta: the numbers and texts in `FLModel.meta` for the trainer, names ascending.
        sites: the names of the round's sites; a site's place is its number in the session.
        params: the session's parameters.
        encoding: the encoding of updates as integers.
        model_digest: digest of the model that is sent to all sites; see `model_encoding.digest`.
        nonce: fresh for each session.
        privacy: the terms of a private session, whose inputs are changes with noise; None for other sessions.
    """

    job_id: str
    round: int
    start_round: int
    total_rounds: int
    meta: tuple[tuple[str, Scalar], ...]
    sites: tuple[str, ...]
    params: Parameters
    encoding: ModelEncoding
    model_digest: bytes
    nonce: bytes
    privacy: PrivateTerms | None = None

    @property
    def measures(self) -> bool:
        """Return whether the session only measures the sizes of updates."""
        return self.encoding.measures and self.privacy is None

    @property
    def private(self) -> PrivateRecords | None:
        """Return the encoding of changes in a private session; None for other sessions."""
        return None if self.privacy is None else PrivateRecords(self.privacy.mechanism, self.to_bytes())

    def vector_length(self, model: Model) -> int:
        """Return the number of elements of an input; ModelError if the announced numbers are for another model."""
        if self.privacy is None:
            return self.encoding.vector_length(model)
        elements = self.encoding.num_elements(model)
        if elements != self.privacy.mechanism.length:
            raise ModelError(
                f"the round was announced with noise for {self.privacy.mechanism.length} elements, and {elements} of "
                "the model's are averaged"
            )
        return self.privacy.mechanism.dimension

    def client_id(self, site: str) -> ClientId:
        """Return the number of a site; raise TaskAnnouncementError if it is not on the list."""
        try:
            return self.sites.index(site)
        except ValueError:
            raise TaskAnnouncementError(f"the round was announced to other sites, not to {site!r}") from None

    @property
    def asked(self) -> bytes:
        """Return all that the trainer's task depends on, and its sites: equal for all sessions of a round."""
        params, encoding = replace(self.params, vector_length=1), replace(self.encoding, scales=None)
        return replace(self, params=params, encoding=encoding, nonce=b"").to_bytes()

    def to_bytes(self) -> bytes:
        """Return equal bytes for equal announcements; raise TaskAnnouncementError if sites would refuse the length."""
        encoding, scales = self.encoding, self.encoding.scales
        try:
            data = msgpack.packb(
                (
                    _VERSION,
                    self.job_id,
                    (self.round, self.start_round, self.total_rounds),
                    self.meta,
                    self.sites,
                    self.params.to_bytes(),
                    (
                        None if scales is None else (scales.bounds, scales.max_weight),
                        encoding.value_bits,
                        encoding.metrics,
                        encoding.metric_bound,
                        encoding.excluded,
                    ),
                    self.model_digest,
                    self.nonce,
                    None if self.privacy is None else msgpack.packb(self.privacy.to_map()),
                )
            )
        except OverflowError as error:
            raise TaskAnnouncementError(f"a number is too large to be announced: {error}") from None
        if len(data) > _MAX_BYTES:
            raise TaskAnnouncementError(
                f"the announcement has {len(data)} bytes, but sites take at most {_MAX_BYTES}: name fewer entries in "
                "exclude_vars, or keep less in the model's meta"
            )
        return bytes(data)

    @classmethod
    def from_bytes(cls, data: object) -> "TaskAnnouncement":
        """Return the announcement that `to_bytes` encoded; raise TaskAnnouncementError for other bytes."""
        if not isinstance(data, bytes) or len(data) > _MAX_BYTES:
            raise TaskAnnouncementError("the server's message is not a valid announcement of a round")
        try:
            version, job_id, rounds, meta, sites, params, encoding, model_digest, nonce, privacy = unpack_bounded(
                data, max_items=_MAX_ITEMS, use_list=False
            )
            round_, start_round, total_rounds = rounds
            parameters = Parameters.from_bytes(params)
            scales, value_bits, metrics, metric_bound, excluded = encoding
            announcement = cls(
                job_id=job_id,
                round=round_,
                start_round=start_round,
                total_rounds=total_rounds,
                meta=meta,
                sites=sites,
                params=parameters,
                encoding=ModelEncoding(
                    num_sites=parameters.num_clients,
                    scales=_scales(scales),
                    value_bits=value_bits,
                    metrics=metrics,
                    metric_bound=metric_bound,
                    excluded=excluded,
                ),
                model_digest=model_digest,
                nonce=nonce,
                privacy=_terms(privacy),
            )
            check_terms(announcement.privacy, parameters)
            is_valid = version == _VERSION and announcement.to_bytes() == data and announcement._is_consistent()
        except (ValueError, TypeError, SecAggError, ConfigError) as error:
            raise TaskAnnouncementError(
                f"the server's message is not a valid announcement of a round: {error}"
            ) from None
        if not is_valid:
            raise TaskAnnouncementError("the server's message is not a valid announcement of a round of this version")
        return announcement

    def _is_consistent(self) -> bool:
        lists = (self.meta, self.sites, self.encoding.metrics, self.encoding.excluded)
        return (
            isinstance(self.job_id, str)
            and all(isinstance(names, tuple) for names in lists)
            and all(type(number) is int and number >= 0 for number in (self.round, self.start_round, self.total_rounds))
            and all(isinstance(name, str) and isinstance(value, Scalar) for name, value in self.meta)
            and [name for name, _ in self.meta] == sorted({name for name, _ in self.meta})
            and isinstance(self.model_digest, bytes)
            and isinstance(self.nonce, bytes)
            and all(isinstance(site, str) for site in self.sites)
            and len(set(self.sites)) == len(self.sites) == self.params.num_clients
            and (self.encoding.value_bits == self.params.value_bits or self.privacy is not None)
            and (self.encoding.scales is None or self.privacy is None)
        )


def _terms(data: Any) -> PrivateTerms | None:
    """Return the terms in an announcement; raise ValueError or ConfigError if they are invalid."""
    if data is None:
        return None
    if not isinstance(data, bytes):
        raise ValueError("the terms of privacy are not bytes")  # noqa: TRY004 - as for other bytes
    # Apart from the rest, since terms have lists.
    return PrivateTerms.from_map(unpack_bounded(data, max_items=_MOST_TERMS))


def _scales(values: Any) -> Scales | None:
    """Return the bounds in an announcement; raise ValueError, TypeError or ConfigError if they are invalid."""
    if values is None:
        return None
    bounds, max_weight = values
    if (
        not isinstance(bounds, tuple)
        or not all(type(bound) is float for bound in bounds)
        or type(max_weight) is not int
    ):
        raise ValueError("bounds are floats, and that of the steps is an int")
    return Scales(bounds, max_weight)
