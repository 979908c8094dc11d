"""Record what happened in a session, for an audit: messages sent and received, and reasons of drops.

An entry holds ids, hashes and decisions, and never a key, a share, a seed, or an element of a vector.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, unique
from itertools import groupby
from typing import Any

from secagg.codec import encode
from secagg.errors import LocalProtocolError, RemoteProtocolError
from secagg.events import (
    Aborted,
    ClientDropped,
    ClientEvent,
    Completed,
    DropReason,
    InputRequested,
    Round,
    Send,
    ServerEvent,
    SharesDisputed,
)
from secagg.messages import (
    AdvertiseKeys,
    ClientMessage,
    ConsistencyCheck,
    ConsistencyProof,
    Flags,
    MaskedInput,
    Message,
    PeerKeys,
    PeerShares,
    ServerMessage,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import ClientId, Parameters
from secagg.primitives.digest import sha256


@unique
class TranscriptKind(Enum):
    """Kinds of entries."""

    SENT = "sent"
    RECEIVED = "received"
    REFUSED = "refused"
    REJECTED_SHARES = "rejected shares of"
    DROPPED = "dropped"
    DISPUTED = "disputed"
    COMPLETED = "completed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One event of a session.

    Attributes:
        round: the round in which it happened.
        what: the kind of event.
        subject: the type of the message, the broken rule, or the reason.
        clients: the clients concerned: receivers and senders; for a list of clients, those on it.
        digest: SHA-256 of the message's bytes; empty for messages with a vector or shares, and for other events.
        detail: further text for people.
    """

    round: Round
    what: TranscriptKind
    subject: str = ""
    clients: tuple[ClientId, ...] = ()
    digest: bytes = b""
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "round": self.round.value,
            "what": self.what.value,
            "subject": self.subject,
            "clients": list(self.clients),
            "digest": self.digest.hex(),
            "detail": self.detail,
        }

    def __str__(self) -> str:
        clients = f" [{', '.join(map(str, self.clients))}]" if self.clients else ""
        digest = f" sha256:{self.digest.hex()}" if self.digest else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.round.value}: {self.what.value} {self.subject}{clients}{digest}{detail}"


ROUND_OF: dict[type[Message], Round] = {
    AdvertiseKeys: Round.ADVERTISE_KEYS,
    PeerKeys: Round.SHARE_KEYS,
    ShareKeys: Round.SHARE_KEYS,
    PeerShares: Round.MASKED_INPUT_COLLECTION,
    MaskedInput: Round.MASKED_INPUT_COLLECTION,
    ConsistencyCheck: Round.CONSISTENCY_CHECK,
    ConsistencyProof: Round.UNMASKING,
    UnmaskingShares: Round.UNMASKING,
}


def round_of(message: Message, params: Parameters) -> Round:
    """Return the round of a message; a message of the server belongs to the round that it opens."""
    if isinstance(message, SurvivorList):
        return Round.CONSISTENCY_CHECK if params.is_signed else Round.UNMASKING
    return ROUND_OF[type(message)]


def of_received(message: ServerMessage, params: Parameters, client_ids: tuple[ClientId, ...]) -> TranscriptEntry:
    """Return a client's entry for a message of the server; ``client_ids`` are those of its list of keys, if any."""
    listed: tuple[ClientId, ...]
    match message:
        case PeerKeys():
            listed = message.client_ids
        case PeerShares():
            listed = _flagged(client_ids, message.shared)
        case SurvivorList():
            listed = _flagged(client_ids, message.survivors)
        case ConsistencyProof():
            listed = _flagged(client_ids, message.consistent)
        case _:
            listed = ()
    return TranscriptEntry(
        round_of(message, params), TranscriptKind.RECEIVED, type(message).__name__, listed, _digest(message, params)
    )


def of_refusal(round_: Round, error: RemoteProtocolError) -> TranscriptEntry:
    """Return a client's entry for the rule that the server broke."""
    return TranscriptEntry(round_, TranscriptKind.REFUSED, error.rule.name, error.culprits, detail=error.detail)


def of_client_events(events: Iterable[ClientEvent], params: Parameters) -> Iterable[TranscriptEntry]:
    """Return a client's entries for the events that a call returned."""
    for event in events:
        match event:
            case Send(message=message):
                name = type(message).__name__
                yield TranscriptEntry(
                    round_of(message, params), TranscriptKind.SENT, name, digest=_digest(message, params)
                )
            case InputRequested(rejected_shares=rejected) if rejected:
                yield TranscriptEntry(Round.MASKED_INPUT_COLLECTION, TranscriptKind.REJECTED_SHARES, clients=rejected)


def of_answers(round_: Round, client_ids: Iterable[ClientId]) -> TranscriptEntry:
    """Return the server's entry for a closed round: the clients whose messages it accepted."""
    return TranscriptEntry(round_, TranscriptKind.RECEIVED, clients=tuple(sorted(client_ids)))


def of_server_events(events: Iterable[ServerEvent], round_: Round, params: Parameters) -> Iterable[TranscriptEntry]:
    """Return the server's entries for the events of a call: one for each different message, with all receivers."""
    for is_send, group in groupby(events, key=lambda event: isinstance(event, Send)):
        if is_send:
            yield from _of_sends([event for event in group if isinstance(event, Send)], params)
            continue
        for event in group:
            match event:
                case ClientDropped(reason=DropReason.UNKNOWN_CLIENT):
                    # Do not record unknown clients: they could fill the memory.
                    pass
                case ClientDropped():
                    yield TranscriptEntry(
                        event.round, TranscriptKind.DROPPED, event.reason.name, (event.client_id,), detail=event.detail
                    )
                case SharesDisputed():
                    for dispute in event.disputes:
                        parties = (dispute.owner, dispute.holder)
                        yield TranscriptEntry(
                            round_, TranscriptKind.DISPUTED, dispute.fault.name, parties, detail="owner, holder"
                        )
                case Completed():
                    yield TranscriptEntry(round_, TranscriptKind.COMPLETED, clients=event.included)
                case Aborted():
                    yield TranscriptEntry(
                        event.round, TranscriptKind.ABORTED, event.reason.name, event.culprits, detail=str(event)
                    )


def _of_sends(sends: list[Send], params: Parameters) -> Iterable[TranscriptEntry]:
    # Messages that differ for each client by design share one entry; those that a server could lie about get one each.
    for message_type, of_type in groupby(sends, key=lambda send: type(send.message)):
        if message_type in (PeerKeys, SurvivorList):
            for _, same in groupby(of_type, key=lambda send: id(send.message)):
                yield _of_one(list(same), params)
        else:
            yield _of_one(list(of_type), params, digest=False)


def _of_one(sends: list[Send], params: Parameters, *, digest: bool = True) -> TranscriptEntry:
    message = sends[0].message
    receivers = tuple(send.to for send in sends if isinstance(send.to, int))
    hashed = _digest(message, params) if digest else b""
    return TranscriptEntry(round_of(message, params), TranscriptKind.SENT, type(message).__name__, receivers, hashed)


def _digest(message: ClientMessage | ServerMessage, params: Parameters) -> bytes:
    if isinstance(message, MaskedInput | UnmaskingShares):
        return b""
    try:
        return sha256(encode(message, params))
    except LocalProtocolError:
        # The codec cannot carry this message. Whether it breaks a rule is decided elsewhere.
        return b""


def _flagged(client_ids: tuple[ClientId, ...], flags: Flags) -> tuple[ClientId, ...]:
    return tuple(client_id for client_id, flag in zip(client_ids, flags, strict=False) if flag)
