"""The announcement in a session's offer: a round of training with its model, or the end of the training.

The announcement is the offer's ``extra``: msgpack of ``[version, since, fields]``, followed by the model's bytes.
These are in the safetensors format, which holds only tensors, no code; both sides bound their size
(`transport.durable.frames.MAX_EXTRA_BYTES` at most).  The whole announcement is bound into the session: clients that
received different announcements, even in one bound or one weight, cannot agree on masks.  Clients take all settings of
their training from it; only their randomness is their own.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

import msgpack
import numpy as np

from fl.aggregation.scales import Scales
from fl.config.config_file import plain_type
from fl.config.run_config import ACCURACY, CROSS_ENTROPY
from fl.errors import ConfigError
from fl.learning.models import ImageShape
from fl.learning.parameter_layout import NOTHING_FROZEN
from fl.learning.settings import Local
from fl.network.errors import AnnouncementError, AnnouncementVersionError, OlderAnnouncementError
from fl.privacy.terms import PrivateTerms
from fl.strict_msgpack import unpack_first
from transport.errors import printable

INPUT_TYPES = ("float32", "int64", "uint8")
"""The types of inputs that a data set can have."""

Purpose: TypeAlias = Literal["update", "scores", "over"]

# Clients of version `_SINCE` and later can read announcements of this version: they ignore names that they do not know.
# A change that they must not ignore raises `_SINCE` to `_VERSION`. Terms of privacy came with version 7.
_VERSION = 7
_SINCE = 6
_SINCE_PRIVATE = 7
# The oldest version that is read here: reading an older one would need values for the fields that it lacks.
_OLDEST = 6
# The first version with a `since` field. All versions from this one on can read the end of the training.
_FIRST = 5
# Enough for the version, the fields and their names, with as many metrics and ranges of figures as there may be.
_MAX_ITEMS = 512
_MOST_AXES = 8
_MOST_METRICS = 16
_LABEL = b"secagg/fl/network-round/1"

_MOST = 2**63 - 1

# The bounds are little-endian float64 as bytes, so that their number follows from the bytes received.
_SCALES = {"bounds": bytes, "max_weight": int}
_BOUND = np.dtype("<f8")
# The settings of one round's training. The learning rate is that of the round, so clients do not need its decay.
_TRAINING = {name: plain_type(kind) for name, kind in get_type_hints(Local).items() if name != "learning_rate_decay"}
_FIELDS = {
    "round": int,
    "rounds": int,
    "model": str,
    "image_shape": list,
    "num_classes": int,
    "input_type": str,
    "loss": str,
    "metrics": list,
    "value_bits": int,
    "training": dict,
    "holdout": float,
    "purpose": str,
    "seed": int,
    "frozen_sha256": bytes,
    "model_sha256": bytes,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundAnnouncement:
    """The announcement of one round of training.

    Attributes:
        round: the number of the round, from 1.
        rounds: the number of rounds of the whole training.
        model: one of `fl.learning.models.MODELS`, or ``package.module:factory``, which a client accepts only if its
            user allows it.
        image_shape: the shape of one example; for an image, (channels, height, width).
        num_classes: the number of a model's outputs; of classes, if the labels are classes.
        input_type: the type of the inputs, one of `INPUT_TYPES`.
        loss: one of `fl.learning.task.LOSSES`, or ``package.module:name``, as for the model.
        metrics: of `fl.learning.task.METRICS`, or ``package.module:name``, as for the model.
        value_bits: bits to which elements of updates are rounded.
        scales: the bounds of the updates' tensors, in the model's order, and of weights. None, without `privacy`: this
            session measures; its clients send only the ranges of their updates, and the updates follow in another one.
        training: the settings of the clients' training.
        holdout: the fraction of its examples that a client is asked to hold out of training. Above 0, each update is
            followed by a session that sums the scores of the new model on them.
        purpose: what the session sums: ``update``, where it `measures` only their ranges; or ``scores``. ``over``:
            there is no session, and this is the final model.
        privacy: the terms of a private session; None for one without noise. Private updates have no other bounds, so
            that `scales` is None, and no other rounding than the terms'.
        seed: the seed under which each party makes the model, and so its frozen parameters.
        frozen_sha256: the digest of the frozen parameters, which are not sent (`frozen_digest`).
        model_bytes: the global model from `fl.learning.serialization.round_message`; a view in a decoded announcement.
    """

    round: int
    rounds: int
    model: str
    image_shape: ImageShape
    num_classes: int
    input_type: str = "float32"
    loss: str = CROSS_ENTROPY
    metrics: tuple[str, ...] = (ACCURACY,)
    value_bits: int
    scales: Scales | None
    training: Local
    holdout: float = 0.0
    purpose: Purpose = "update"
    privacy: PrivateTerms | None = None
    seed: int = 0
    frozen_sha256: bytes = NOTHING_FROZEN
    model_bytes: bytes | memoryview = field(repr=False)

    @property
    def measures(self) -> bool:
        """Whether the session sums only the ranges of updates."""
        return self.purpose == "update" and self.scales is None and self.privacy is None


@dataclass(frozen=True, slots=True)
class TrainingOver:
    """The announcement that there are no more rounds, with the final model; None for a server that sends none."""

    final: RoundAnnouncement | None = None


def encode_announcement(announcement: RoundAnnouncement | TrainingOver) -> bytes:
    """Return the offer's ``extra``; equal announcements give equal bytes."""
    if isinstance(announcement, TrainingOver):
        if announcement.final is None:
            return bytes(msgpack.packb([_VERSION, _FIRST, {}]))
        announcement = replace(announcement.final, purpose="over")
    fields = {
        "round": announcement.round,
        "rounds": announcement.rounds,
        "model": announcement.model,
        "image_shape": list(announcement.image_shape),
        "num_classes": announcement.num_classes,
        "input_type": announcement.input_type,
        "loss": announcement.loss,
        "metrics": list(announcement.metrics),
        "value_bits": announcement.value_bits,
        "scales": _encoded_scales(announcement.scales),
        "training": {name: kind(getattr(announcement.training, name)) for name, kind in _TRAINING.items()},
        "holdout": float(announcement.holdout),
        "purpose": announcement.purpose,
        "privacy": None if announcement.privacy is None else announcement.privacy.to_map(),
        "seed": announcement.seed,
        "frozen_sha256": announcement.frozen_sha256,
        "model_sha256": hashlib.sha256(announcement.model_bytes).digest(),
    }
    since = _SINCE if announcement.privacy is None else _SINCE_PRIVATE
    return b"".join((msgpack.packb([_VERSION, since, fields]), announcement.model_bytes))


def decode_announcement(extra: bytes) -> RoundAnnouncement | TrainingOver:
    """Decode the bytes of `encode_announcement`; `fl.network.policy` decides whether the client accepts it.

    Raises:
        AnnouncementVersionError: the announcement has a version that is not read here.
        AnnouncementError: the bytes are not an announcement, or a number is out of range.
    """
    try:
        content, model_bytes = unpack_first(extra, max_items=_MAX_ITEMS)
    except ValueError as error:
        raise AnnouncementError(f"the server's announcement cannot be read: {error}") from None
    if not isinstance(content, list) or not content or type(content[0]) is not int:
        raise AnnouncementError("the server announces no training: is it `secagg serve`?")
    version, *others = content
    if version < _OLDEST:
        raise OlderAnnouncementError(
            f"the server announces in version {version}, and this client knows {_OLDEST} and later"
        )
    if len(others) != 2 or type(others[0]) is not int:
        raise AnnouncementError("the announcement has other fields than this version knows")
    since, fields = others
    if since > _VERSION:
        raise AnnouncementVersionError(
            f"the server announces in version {version}, and this client knows {_VERSION}: upgrade it, to {since} at "
            "least"
        )
    if not fields and isinstance(fields, dict) and not model_bytes:
        return TrainingOver()
    is_newer = version > _VERSION
    scales = fields.pop("scales", {}) if isinstance(fields, dict) else None
    terms = fields.pop("privacy", {}) if isinstance(fields, dict) and version >= _SINCE_PRIVATE else None
    fields = _checked("the announcement", fields, _FIELDS, is_newer)
    if hashlib.sha256(model_bytes).digest() != fields["model_sha256"]:
        raise AnnouncementError("the announced model does not have the announced SHA-256")
    number, rounds, classes, shape = (fields[name] for name in ("round", "rounds", "num_classes", "image_shape"))
    if not 1 <= number <= rounds <= _MOST or not 1 <= classes <= _MOST:
        raise AnnouncementError(f"round {number} of {rounds} with {classes} classes is not possible")
    if not 0 <= fields["holdout"] < 1 or fields["purpose"] not in get_args(Purpose):
        raise AnnouncementError("the announced fraction to hold out, or purpose, is not possible")
    if fields["seed"] < 0:
        raise AnnouncementError(f"the announced seed {fields['seed']} is negative")
    if not 1 <= len(shape) <= _MOST_AXES or not all(type(size) is int and 1 <= size <= _MOST for size in shape):
        raise AnnouncementError("the announced shape of examples is not possible")
    metrics = fields["metrics"]
    if len(metrics) > _MOST_METRICS or not all(type(name) is str for name in metrics):
        raise AnnouncementError(f"the announced metrics are not at most {_MOST_METRICS} names")
    if fields["input_type"] not in INPUT_TYPES:
        raise AnnouncementError(f"the announced inputs are of an unknown type {printable(fields['input_type'])}")
    try:
        bounds = None if scales is None else _decoded_scales(scales, is_newer)
        training = Local(**_checked("the training", fields["training"], _TRAINING, is_newer))
        privacy = None if terms is None else PrivateTerms.from_map(terms)
    except ConfigError as error:
        raise AnnouncementError(f"the announced numbers are not possible: {error}") from None
    announced = RoundAnnouncement(
        round=number,
        rounds=rounds,
        model=fields["model"],
        image_shape=tuple(shape),
        num_classes=classes,
        input_type=fields["input_type"],
        loss=fields["loss"],
        metrics=tuple(metrics),
        value_bits=fields["value_bits"],
        scales=bounds,
        training=training,
        holdout=fields["holdout"],
        purpose=fields["purpose"],
        privacy=privacy,
        seed=fields["seed"],
        frozen_sha256=fields["frozen_sha256"],
        model_bytes=model_bytes,
    )
    if privacy is not None and bounds is not None:
        raise AnnouncementError("the announcement has bounds and terms of privacy, and a session has one of both")
    return TrainingOver(announced) if announced.purpose == "over" else announced


def _encoded_scales(scales: Scales | None) -> dict[str, Any] | None:
    if scales is None:
        return None
    return {"bounds": np.array(scales.bounds, dtype=_BOUND).tobytes(), "max_weight": scales.max_weight}


def _decoded_scales(values: Any, is_newer: bool) -> Scales:
    values = _checked("the bounds", values, _SCALES, is_newer)
    if len(values["bounds"]) % _BOUND.itemsize:
        raise AnnouncementError(f"{len(values['bounds'])} bytes of bounds are not a whole number of bounds")
    return Scales(tuple(np.frombuffer(values["bounds"], dtype=_BOUND).tolist()), values["max_weight"])


def round_context(number: int, extra: bytes) -> bytes:
    """Return the context of a round, 32 bytes: SHA-256 of its number and the whole announcement with the model.

    The server hashes the bytes that it sends, each client the bytes that it received.
    """
    return hashlib.sha256(_LABEL + number.to_bytes(8, "big") + extra).digest()


def _checked(what: str, values: Any, types: dict[str, type], is_newer: bool) -> dict[str, Any]:
    """Return the values of the known names; unknown names are ignored in a newer version, and refused otherwise."""
    if is_newer and isinstance(values, dict):
        values = {name: value for name, value in values.items() if name in types}
    if not isinstance(values, dict) or values.keys() != types.keys():
        raise AnnouncementError(f"{what} has other fields than this version knows")
    for name, kind in types.items():
        # isinstance would accept True as an int.
        if type(values[name]) is not kind:
            raise AnnouncementError(f"{what}'s {name} is of type {type(values[name]).__name__}, not {kind.__name__}")
        if kind is int and values[name] > _MOST:
            raise AnnouncementError(f"{what}'s {name} is above {_MOST}")
    return values
