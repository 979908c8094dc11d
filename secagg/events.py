"""Events that the machines return to their host: plain values. Only `UnmaskReady` holds secrets, those of its job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Literal, TypeAlias

import numpy as np

from secagg.algebra.ring import RingVector
from secagg.messages import ClientMessage, ServerMessage
from secagg.params import ClientId, Parameters
from secagg.unmask_job import UnmaskJob


@unique
class Round(Enum):
    """Rounds of the protocol, with the paper's names."""

    ADVERTISE_KEYS = "AdvertiseKeys"
    SHARE_KEYS = "ShareKeys"
    MASKED_INPUT_COLLECTION = "MaskedInputCollection"
    CONSISTENCY_CHECK = "ConsistencyCheck"
    UNMASKING = "Unmasking"


def rounds_of(params: Parameters) -> tuple[Round, ...]:
    """Return the rounds of a session in order; ConsistencyCheck is one of them in the signed modes only."""
    return tuple(round_ for round_ in Round if round_ is not Round.CONSISTENCY_CHECK or params.is_signed)


@unique
class Recipient(Enum):
    """The recipient of a client's messages."""

    SERVER = "server"


SERVER: Literal[Recipient.SERVER] = Recipient.SERVER
"""The recipient of a client's `Send` events."""


@unique
class DropReason(Enum):
    """Reasons why the server dropped a client."""

    DISCONNECTED = "its connection ended"
    DEADLINE = "its message did not arrive in time"
    MALFORMED = "its bytes are not a message"
    UNEXPECTED_MESSAGE = "its message belongs to another round"
    DUPLICATE = "it sent a second message in one round"
    WRONG_SESSION = "its message belongs to another session (other parameters, nonce or context)"
    UNKNOWN_CLIENT = "it is not on this session's list of clients"
    INVALID_PUBLIC_KEY = "one of its public keys is not a valid X25519 point"
    KEY_NOT_DISTINCT = "one of its public keys was advertised before"
    WRONG_SIZE = "its message does not match the clients announced to it"
    IDENTITY_NOT_TRUSTED = "its identity key is not the one in the directory"
    IDENTITY_NOT_DISTINCT = "its identity key was advertised before"
    INVALID_SIGNATURE = "its signature is not valid for its identity key, or for the data it was sent"
    TOO_FEW_NEIGHBORS = "too few of its neighbours are left"


@unique
class AbortReason(Enum):
    """Reasons why a session ended without a sum. No input was unmasked."""

    TOO_FEW_CLIENTS = "fewer clients than the threshold are left"
    TOO_FEW_SHARES = "fewer shares of a secret than the threshold arrived"
    INVALID_SHARES = "the shares of a secret do not reconstruct it"
    CANCELLED = "the host ended the session"


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver ``message`` to a client (its id), or to the server (SERVER)."""

    to: ClientId | Literal[Recipient.SERVER]
    message: ClientMessage | ServerMessage


@dataclass(frozen=True, slots=True)
class InputRequested:
    """Client: the pairwise keys are agreed; call `Client.submit_input`.

    Attributes:
        rejected_shares: peers whose encrypted shares did not authenticate; they or the server are at fault.
    """

    rejected_shares: tuple[ClientId, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientDropped:
    """Server: the session continues without this client."""

    client_id: ClientId
    reason: DropReason
    round: Round
    detail: str = ""


@unique
class ShareFault(Enum):
    """Faults of a share of a secret."""

    WRONG = "it does not match the secret"
    MISSING = "its holder could not open it"


@dataclass(frozen=True, slots=True, order=True)
class Dispute:
    """A wrong share. Its owner made it wrong or its holder changed it; the others cannot tell which.

    Attributes:
        owner: the client whose secret was shared.
        holder: the client that returned the share.
        fault: what is wrong.
    """

    owner: ClientId
    holder: ClientId
    fault: ShareFault = field(compare=False)


@dataclass(frozen=True, slots=True)
class SharesDisputed:
    """Server: wrong shares were found and ignored.

    Attributes:
        disputes: the wrong shares.
        culprits: a small set of clients that explains them. Where either could be at fault, it names the holder of a
            wrong share, and the owner of a share that could not be opened. A client that has a dispute with one other
            client only may be that client's victim.
    """

    disputes: tuple[Dispute, ...]
    culprits: tuple[ClientId, ...]


@dataclass(frozen=True, slots=True)
class UnmaskReady:
    """Server: run ``job`` on any process or machine, and give its result to `Server.finish`."""

    job: UnmaskJob


@dataclass(frozen=True, slots=True, eq=False)
class Completed:
    """Server: the session ended with a sum.

    Attributes:
        sum: shape (vector_length,), dtype of the ring.
        included: the clients whose inputs are in the sum.
        culprits: clients whose wrong shares were ignored; see `SharesDisputed`.
        noise_keys: for each noise component that the sum does not need, the key of each client in the sum, 16 bytes.
            A client is missing where its shares do not give the key: its noise stays in the sum.
    """

    sum: RingVector = field(repr=False)
    included: tuple[ClientId, ...]
    culprits: tuple[ClientId, ...] = ()
    noise_keys: Mapping[int, Mapping[ClientId, bytes]] = field(default_factory=dict, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Completed):
            return NotImplemented
        mine, theirs = ((one.included, one.culprits, one.noise_keys) for one in (self, other))
        return mine == theirs and np.array_equal(self.sum, other.sum)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Aborted:
    """Server: the session ended without a sum.

    Attributes:
        reason: why it ended.
        round: the round in which it ended.
        needed: number of clients, or of shares of each secret, that were needed; for INVALID_SHARES, of secrets.
        had: number that was there; of shares, for the secret that has the fewest. It is 0 if there were enough
            clients, but on a sparse graph none of them had enough neighbours.
        missing: clients that the round was opened for and that did not answer.
        owners: clients whose secrets could not be recovered.
        culprits: clients that explain the wrong shares, as far as they were found; see `SharesDisputed`. The owner of
            a secret is one of them if more shares than needed agree with each other and not with its commitment.
    """

    reason: AbortReason
    round: Round
    needed: int
    had: int
    missing: tuple[ClientId, ...] = ()
    owners: tuple[ClientId, ...] = ()
    culprits: tuple[ClientId, ...] = ()

    def __str__(self) -> str:
        return f"aborted in {self.round.value}: {self.reason.value} (needed {self.needed}, had {self.had})"


ClientEvent: TypeAlias = Send | InputRequested
ServerEvent: TypeAlias = Send | ClientDropped | SharesDisputed | UnmaskReady | Completed | Aborted
