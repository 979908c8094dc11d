"""What the machines tell their host. Plain values; the only one that holds secrets is `UnmaskReady`, for its job."""

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
    """The protocol's rounds, by the paper's names."""

    ADVERTISE_KEYS = "AdvertiseKeys"
    SHARE_KEYS = "ShareKeys"
    MASKED_INPUT_COLLECTION = "MaskedInputCollection"
    CONSISTENCY_CHECK = "ConsistencyCheck"
    UNMASKING = "Unmasking"


def rounds_of(params: Parameters) -> tuple[Round, ...]:
    """The rounds of a session with these parameters, in order: ConsistencyCheck belongs to those that are signed."""
    return tuple(round_ for round_ in Round if round_ is not Round.CONSISTENCY_CHECK or params.is_signed)


@unique
class Recipient(Enum):
    """Where a client's messages go."""

    SERVER = "server"


SERVER: Literal[Recipient.SERVER] = Recipient.SERVER
"""Where a client's messages go: the recipient of its `Send` events."""


@unique
class DropReason(Enum):
    """Why the server goes on without a client."""

    DISCONNECTED = "its connection ended"
    DEADLINE = "its message did not come in time"
    MALFORMED = "its bytes were no message"
    UNEXPECTED_MESSAGE = "its message belongs to another round"
    DUPLICATE = "it sent a second message in one round"
    WRONG_SESSION = "its message belongs to another session (other parameters, nonce or context)"
    UNKNOWN_CLIENT = "it is not on this session's list of clients"
    INVALID_PUBLIC_KEY = "a public key of its is no usable X25519 point"
    KEY_NOT_DISTINCT = "a public key of its was advertised already"
    WRONG_SIZE = "its message does not fit the clients that were announced to it"
    IDENTITY_NOT_TRUSTED = "its identity key is not the one that the directory has"
    IDENTITY_NOT_DISTINCT = "its identity key was advertised already"
    INVALID_SIGNATURE = "its signature is not its identity's, or not of what it was shown"
    TOO_FEW_NEIGHBORS = "too few of its neighbours are left"


@unique
class AbortReason(Enum):
    """Why a session ended without a sum. No input was unmasked."""

    TOO_FEW_CLIENTS = "fewer clients than the threshold are left"
    TOO_FEW_SHARES = "fewer shares of a secret than the threshold came in"
    INVALID_SHARES = "shares do not give back the secret that they were made of"
    CANCELLED = "the host ended the session"


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver ``message`` to a client (its id), or to the server (SERVER)."""

    to: ClientId | Literal[Recipient.SERVER]
    message: ClientMessage | ServerMessage


@dataclass(frozen=True, slots=True)
class InputRequested:
    """Client: the pairwise keys are set; call `Client.submit_input`.

    Attributes:
        rejected_shares: peers whose encrypted shares did not authenticate: they or the server are at fault.
    """

    rejected_shares: tuple[ClientId, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientDropped:
    """Server: the session goes on without this client."""

    client_id: ClientId
    reason: DropReason
    round: Round
    detail: str = ""


@unique
class ShareFault(Enum):
    """What is wrong with a share of a secret."""

    WRONG = "it is not what gives the secret back"
    MISSING = "its holder could not open it"


@dataclass(frozen=True, slots=True, order=True)
class Dispute:
    """A share that is wrong: its owner dealt it so, or its holder changed it; which of the two, nobody else can see.

    Attributes:
        owner: the client whose secret was shared.
        holder: the client that was to give the share back.
        fault: what is wrong.
    """

    owner: ClientId
    holder: ClientId
    fault: ShareFault = field(compare=False)


@dataclass(frozen=True, slots=True)
class SharesDisputed:
    """Server: shares were wrong, and were done without.

    Attributes:
        disputes: which.
        culprits: the clients that explain them, as few as can be found. Where it could be either, it is the holder
            that gave back a wrong share, and the owner of one that could not be opened: a client that has a dispute
            with one other client only may be that client's victim.
    """

    disputes: tuple[Dispute, ...]
    culprits: tuple[ClientId, ...]


@dataclass(frozen=True, slots=True)
class UnmaskReady:
    """Server: run ``job`` wherever you like, and give its result to `Server.finish`."""

    job: UnmaskJob


@dataclass(frozen=True, slots=True, eq=False)
class Completed:
    """Server: the end.

    Attributes:
        sum: shape (vector_length,), the ring's dtype.
        included: the clients whose inputs are in it.
        culprits: clients whose wrong shares were done without; see `SharesDisputed`.
    """

    sum: RingVector = field(repr=False)
    included: tuple[ClientId, ...]
    culprits: tuple[ClientId, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Completed):
            return NotImplemented
        return (self.included, self.culprits) == (other.included, other.culprits) and np.array_equal(
            self.sum, other.sum
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Aborted:
    """Server: the end, without a sum.

    Attributes:
        reason: why.
        round: in which round.
        needed: how many clients, or shares of each secret, were needed; for INVALID_SHARES, how many secrets.
        had: how many there were; of shares, for the secret that has the fewest; 0 if there were enough clients, but
            on a sparse graph none of them with enough neighbours.
        missing: the clients that the round was opened for and that did not answer.
        owners: the clients whose secrets could not be recovered.
        culprits: the clients that explain the wrong shares, so far as was found out; see `SharesDisputed`. The owner of
            a secret whose shares, more than needed, agree with each other and not with its commitment is one.
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
