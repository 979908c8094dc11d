"""The records that carry the protocol inside Flower's messages.

Server to client: one ConfigRecord, ``secagg``, with the offer that opens a session, or with a message of the protocol;
the app's own records come with it in the round in which clients train.  Client to server: one ArrayRecord, ``secagg``,
with a message of the protocol, since Flower sends arrays in pieces but other records whole; a masked input comes with
its layout in ``secagg.layout``.
"""

from dataclasses import dataclass

from fl.integrations.flower._flwr import Array, ArrayRecord, ConfigRecord, RecordDict
from fl.integrations.flower.errors import OfferError

CONTROL = "secagg"
_LAYOUT = "secagg.layout"
_STYPE = "secagg.message"

REFUSAL = "secagg: "
"""The beginning of the error of a node that takes no part."""

REASON_LIMIT = 400
"""The most characters of an error's reason that are sent and shown."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Server to client: take part in the session that ``offer`` describes, as client ``client_id``."""

    client_id: int
    offer: bytes


@dataclass(frozen=True, slots=True)
class Onward:
    """Server to client: a message of the protocol, in the open session."""

    message: bytes


def pack_opening(opening: Opening) -> RecordDict:
    """Return the content of the message that opens a session."""
    return RecordDict({CONTROL: ConfigRecord({"client-id": opening.client_id, "offer": opening.offer})})


def pack_onward(onward: Onward, own: RecordDict | None = None) -> RecordDict:
    """Return the content of a later message, with the app's records in the round in which clients train."""
    return RecordDict({**(own or {}), CONTROL: ConfigRecord({"message": onward.message})})


def unpack(content: RecordDict) -> tuple[Opening | Onward | None, RecordDict]:
    """Return the server's protocol message, if any, and the app's records; raise OfferError if it is malformed."""
    own = RecordDict({name: record for name, record in content.items() if name != CONTROL})
    record = content.get(CONTROL)
    if record is None:
        return None, own
    fields = dict(record) if isinstance(record, ConfigRecord) else {}
    client_id, offer, message = fields.get("client-id"), fields.get("offer"), fields.get("message")
    if fields.keys() == {"client-id", "offer"} and type(client_id) is int and isinstance(offer, bytes):
        return Opening(client_id, offer), own
    if fields.keys() == {"message"} and isinstance(message, bytes):
        return Onward(message), own
    raise OfferError(f"the record {CONTROL!r} is not of this version of the adapter")


def pack_answer(message: bytes, layout: bytes = b"") -> RecordDict:
    """Return the content of a client's reply."""
    array = Array(dtype="uint8", shape=(len(message),), stype=_STYPE, data=message)
    content = RecordDict({CONTROL: ArrayRecord({"message": array})})
    if layout:
        content[_LAYOUT] = ConfigRecord({"layout": layout})
    return content


def unpack_answer(content: RecordDict) -> tuple[bytes, bytes] | None:
    """Return a client's message and its input's layout, empty if it has none; None for any other reply."""
    record, fields = content.get(CONTROL), content.get(_LAYOUT)
    array = record.get("message") if isinstance(record, ArrayRecord) else None
    layout = fields.get("layout", b"") if isinstance(fields, ConfigRecord) else b""
    if array is None or array.stype != _STYPE or not isinstance(layout, bytes):
        return None
    return array.data, layout
