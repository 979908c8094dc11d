"""What happened in a session, for whoever asks afterwards: who sent what to whom, and why somebody was left out.

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
class What(Enum):
    """What an entry tells of."""

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
    """One thing that happened.

    Attributes:
        round: when.
        what: what kind of thing.
        subject: the message's type, the rule that was broken, or the reason.
        clients: whom it concerns: receivers and senders; for a list of clients, those on it.
        digest: SHA-256 of the message's bytes; empty for those with a vector or shares, and where there is none.
        detail: more, for people.
    """

    round: Round
    what: What
    subject: str = ""
    clients: tuple[ClientId, ...] = ()
    digest: bytes = b""
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
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
    """The round that a message belongs to; a server's message belongs to the round that it opens."""
    if isinstance(message, SurvivorList):
        return Round.CONSISTENCY_CHECK if params.is_signed else Round.UNMASKING
    return ROUND_OF[type(message)]


def of_received(message: ServerMessage, params: Parameters, client_ids: tuple[ClientId, ...]) -> TranscriptEntry:
    """A client's entry for a message of the server; ``client_ids`` are those of the list of keys, if there is one."""
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
        round_of(message, params), What.RECEIVED, type(message).__name__, listed, _digest(message, params)
    )


def of_refusal(round_: Round, error: RemoteProtocolError) -> TranscriptEntry:
    """A client's entry for the rule that the server broke."""
    return TranscriptEntry(round_, What.REFUSED, error.rule.name, error.culprits, detail=error.detail)


def of_client_events(events: Iterable[ClientEvent], params: Parameters) -> Iterable[TranscriptEntry]:
    """A client's entries for what a call returned."""
    for event in events:
        match event:
            case Send(message=message):
                name = type(message).__name__
                yield TranscriptEntry(round_of(message, params), What.SENT, name, digest=_digest(message, params))
            case InputRequested(rejected_shares=rejected) if rejected:
                yield TranscriptEntry(Round.MASKED_INPUT_COLLECTION, What.REJECTED_SHARES, clients=rejected)


def of_answers(round_: Round, client_ids: Iterable[ClientId]) -> TranscriptEntry:
    """The server's entry for a round that it closed: whose messages it has taken."""
    return TranscriptEntry(round_, What.RECEIVED, clients=tuple(sorted(client_ids)))


def of_server_events(events: Iterable[ServerEvent], round_: Round, params: Parameters) -> Iterable[TranscriptEntry]:
    """The server's entries for what a call returned; one for each different message, with all its receivers."""
    for is_send, group in groupby(events, key=lambda event: isinstance(event, Send)):
        if is_send:
            yield from _of_sends([event for event in group if isinstance(event, Send)], params)
            continue
        for event in group:
            match event:
                case ClientDropped(reason=DropReason.UNKNOWN_CLIENT):
                    # Strangers are not kept: they must not fill the memory.
                    pass
                case ClientDropped():
                    yield TranscriptEntry(
                        event.round, What.DROPPED, event.reason.name, (event.client_id,), detail=event.detail
                    )
                case SharesDisputed():
                    for dispute in event.disputes:
                        parties = (dispute.owner, dispute.holder)
                        yield TranscriptEntry(
                            round_, What.DISPUTED, dispute.fault.name, parties, detail="owner, holder"
                        )
                case Completed():
                    yield TranscriptEntry(round_, What.COMPLETED, clients=event.included)
                case Aborted():
                    yield TranscriptEntry(
                        event.round, What.ABORTED, event.reason.name, event.culprits, detail=str(event)
                    )


def _of_sends(sends: list[Send], params: Parameters) -> Iterable[TranscriptEntry]:
    # What differs between clients by nature is one entry; what a server could lie about has an entry each.
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
    return TranscriptEntry(round_of(message, params), What.SENT, type(message).__name__, receivers, hashed)


def _digest(message: ClientMessage | ServerMessage, params: Parameters) -> bytes:
    if isinstance(message, MaskedInput | UnmaskingShares):
        return b""
    try:
        return sha256(encode(message, params))
    except LocalProtocolError:
        # Not made by the codec, and not what it could carry: whether it breaks a rule is for the rules.
        return b""


def _flagged(client_ids: tuple[ClientId, ...], flags: Flags) -> tuple[ClientId, ...]:
    return tuple(client_id for client_id, flag in zip(client_ids, flags, strict=False) if flag)
