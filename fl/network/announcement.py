"""What the server announces with a session's offer: a round of training and its model, or that training is over.

The announcement is the offer's ``extra``: msgpack of ``[version, since, fields]``, and behind it the model's bytes.
These are safetensors, which hold tensors and nothing that could run; both sides bound its size
(`transport.durable.frames.MAX_EXTRA_BYTES` at most).  All of it is bound into the session: clients that were announced
anything different, a clipping bound or one weight, cannot agree on masks.  Clients train by nothing else: their
randomness is their own.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import msgpack
import numpy as np

from fl.aggregation.scales import Scales
from fl.config.config_file import plain_type
from fl.errors import ConfigError
from fl.learning.models import ImageShape
from fl.learning.settings import LocalTraining
from fl.network.errors import AnnouncementError, AnnouncementVersionError, OlderAnnouncementError
from fl.strict_msgpack import unpack_first

# Clients of version `_SINCE` and later understand all that matters in an announcement of this one: they leave out names
# that they do not know. A change that they must not miss raises it to `_VERSION`.
_VERSION = 5
_SINCE = 5
# The oldest version that is read here: a version that reads older ones knows what the fields that they lack were.
_OLDEST = 5
# The first version that says since when it is read. All from there on read that training is over.
_FIRST = 5
# Version, fields and their names, with some room.
_MAX_ITEMS = 128
_MOST_AXES = 8
_LABEL = b"secagg/fl/network-round/1"

_MOST = 2**63 - 1

# The bounds are float64, little-endian, as bytes: as many as came, whatever a number before them says.
_SCALES = {"bounds": bytes, "max_weight": int}
_BOUND = np.dtype("<f8")
# All of a round's training. It has its own learning rate: what that is multiplied by afterwards, no client needs.
_TRAINING = {
    name: plain_type(kind) for name, kind in get_type_hints(LocalTraining).items() if name != "learning_rate_decay"
}
_FIELDS = {
    "round": int,
    "rounds": int,
    "model": str,
    "image_shape": list,
    "num_classes": int,
    "value_bits": int,
    "training": dict,
    "model_sha256": bytes,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One round of training.

    Attributes:
        round: from 1.
        rounds: of the whole training.
        model: one of `fl.learning.models.MODELS`, or ``package.module:factory``, which a client takes only if its
            user says so.
        image_shape: of one example; of an image, (channels, height, width).
        num_classes: of the labels.
        value_bits: that elements of updates are rounded to.
        scales: what the tensors of updates, in the model's order, and weights are clipped to. None: this session
            measures, and its clients send only how large their updates are; the round's update follows in another one.
        training: how clients train.
        model_bytes: the global model, as `fl.learning.serialization.model_to_bytes` gives it; of a decoded
            announcement, a view.
    """

    round: int
    rounds: int
    model: str
    image_shape: ImageShape
    num_classes: int
    value_bits: int
    scales: Scales | None
    training: LocalTraining
    model_bytes: bytes | memoryview = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrainingOver:
    """There are no more rounds."""


def encode_announcement(announcement: Announcement | TrainingOver) -> bytes:
    """The offer's ``extra``. Equal announcements give equal bytes."""
    if isinstance(announcement, TrainingOver):
        return bytes(msgpack.packb([_VERSION, _FIRST, {}]))
    fields = {
        "round": announcement.round,
        "rounds": announcement.rounds,
        "model": announcement.model,
        "image_shape": list(announcement.image_shape),
        "num_classes": announcement.num_classes,
        "value_bits": announcement.value_bits,
        "scales": _encoded_scales(announcement.scales),
        "training": {name: kind(getattr(announcement.training, name)) for name, kind in _TRAINING.items()},
        "model_sha256": hashlib.sha256(announcement.model_bytes).digest(),
    }
    return b"".join((msgpack.packb([_VERSION, _SINCE, fields]), announcement.model_bytes))


def decode_announcement(extra: bytes) -> Announcement | TrainingOver:
    """What `encode_announcement` gave; whether it suits the client is `fl.network.policy`'s to say.

    Raises:
        AnnouncementVersionError: it is of a version that is not read here.
        AnnouncementError: it is none, or its numbers are out of range.
    """
    try:
        content, model_bytes = unpack_first(extra, max_items=_MAX_ITEMS)
    except ValueError as error:
        raise AnnouncementError(f"the server's announcement is none: {error}") from None
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
    fields = _checked("the announcement", fields, _FIELDS, is_newer)
    if hashlib.sha256(model_bytes).digest() != fields["model_sha256"]:
        raise AnnouncementError("the announced model is not the one that came with it")
    number, rounds, classes, shape = (fields[name] for name in ("round", "rounds", "num_classes", "image_shape"))
    if not 1 <= number <= rounds <= _MOST or not 2 <= classes <= _MOST:
        raise AnnouncementError(f"round {number} of {rounds} with {classes} classes cannot be")
    if not 1 <= len(shape) <= _MOST_AXES or not all(type(size) is int and 1 <= size <= _MOST for size in shape):
        raise AnnouncementError("the announced examples have no shape")
    try:
        bounds = None if scales is None else _decoded_scales(scales, is_newer)
        training = LocalTraining(**_checked("the training", fields["training"], _TRAINING, is_newer))
    except ConfigError as error:
        raise AnnouncementError(f"the announced numbers cannot be: {error}") from None
    return Announcement(
        round=number,
        rounds=rounds,
        model=fields["model"],
        image_shape=tuple(shape),
        num_classes=classes,
        value_bits=fields["value_bits"],
        scales=bounds,
        training=training,
        model_bytes=model_bytes,
    )


def _encoded_scales(scales: Scales | None) -> dict[str, Any] | None:
    if scales is None:
        return None
    return {"bounds": np.array(scales.bounds, dtype=_BOUND).tobytes(), "max_weight": scales.max_weight}


def _decoded_scales(values: Any, is_newer: bool) -> Scales:
    values = _checked("the bounds", values, _SCALES, is_newer)
    if len(values["bounds"]) % _BOUND.itemsize:
        raise AnnouncementError(f"{len(values['bounds'])} bytes of bounds are no whole number of bounds")
    return Scales(tuple(np.frombuffer(values["bounds"], dtype=_BOUND).tolist()), values["max_weight"])


def round_context(number: int, extra: bytes) -> bytes:
    """What a round is bound to, 32 bytes: SHA-256 over its number and all that was announced, the model included.

    The server hashes what it sends, each client what it received.
    """
    return hashlib.sha256(_LABEL + number.to_bytes(8, "big") + extra).digest()


def _checked(what: str, values: Any, types: dict[str, type], is_newer: bool) -> dict[str, Any]:
    """The values of these names; others are taken from a newer version alone, and left out."""
    if is_newer and isinstance(values, dict):
        values = {name: value for name, value in values.items() if name in types}
    if not isinstance(values, dict) or values.keys() != types.keys():
        raise AnnouncementError(f"{what} has other fields than this version knows")
    for name, kind in types.items():
        # True is an int to isinstance, and no number here.
        if type(values[name]) is not kind:
            raise AnnouncementError(f"{what}'s {name} is of type {type(values[name]).__name__}, not {kind.__name__}")
        if kind is int and values[name] > _MOST:
            raise AnnouncementError(f"{what}'s {name} is above {_MOST}")
    return values
