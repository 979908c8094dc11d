"""What the machines tell their host. Plain values; the only one that holds secrets is `UnmaskReady`, for its job."""

from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Literal, TypeAlias

import numpy as np

from secagg.algebra.ring import RingVector
from secagg.masking import UnmaskJob
from secagg.messages import ClientMessage, ServerMessage
from secagg.params import ClientId


@unique
class Round(Enum):
    """The protocol's rounds, by the paper's names."""

    ADVERTISE_KEYS = "AdvertiseKeys"
    SHARE_KEYS = "ShareKeys"
    MASKED_INPUT_COLLECTION = "MaskedInputCollection"
    UNMASKING = "Unmasking"


@unique
class Recipient(Enum):
    """Where a client's messages go."""

    SERVER = "server"


SERVER: Literal[Recipient.SERVER] = Recipient.SERVER


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


@dataclass(frozen=True, slots=True)
class UnmaskReady:
    """Server: run ``job`` wherever you like, and give its result to `Server.finish`."""

    job: UnmaskJob


@dataclass(frozen=True, slots=True, eq=False)
class Completed:
    """Server: the end. ``sum`` has shape (vector_length,), the ring's dtype; ``included`` are its clients."""

    sum: RingVector = field(repr=False)
    included: tuple[ClientId, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Completed):
            return NotImplemented
        return self.included == other.included and np.array_equal(self.sum, other.sum)

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
        culprits: clients that are known to have sent something wrong. Empty against a server that only looks: who sent
            a wrong share cannot be told without commitments to the seeds.
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
ServerEvent: TypeAlias = Send | ClientDropped | UnmaskReady | Completed | Aborted
