"""How a client takes part, and what it makes of an offer: it takes it, declines it, or has to ask in another way.

What the server is told of a refusal says nothing of the client's data.
"""

from dataclasses import dataclass, field
from pathlib import Path

from fl.aggregation.session_policy import PolicyError
from fl.network.announcement import Announcement, TrainingOver, decode_announcement
from fl.network.errors import AnnouncementError, AnnouncementVersionError, OlderAnnouncementError
from fl.network.local_data import LocalData
from fl.network.policy import Policy, TrainingPolicyError
from secagg import ClientId
from transport import Offer, OlderServerError, SessionRefusedError
from transport.certificates.reading import Credentials
from transport.tcp import Address, Limits, Plaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """How a client takes part.

    Attributes:
        client_id: the one in its certificate.
        address: where the server is.
        tls: the client's certificate, or that there is to be none.
        server_name: the name in the server's certificate, if it is not the host that is called.
        identity_key: in malicious mode, the client's key file.
        directory: in malicious mode, the folder with everybody's certificates and the authority's.
        state: a folder for the journal, its key, and the record of what this client has answered. Without it, a crash
            costs the client the round, and the record is in the user's own folder (`fl.aggregation.participation`).
        training: the client's own name for the training, in which it answers each round once. Nothing of the server's
            is in it, nor its address: it could begin anew as often as it likes.
        max_rounds: the most rounds to answer in that training.
        limits: what its connection may take.
        max_failed_rounds: the client ends after this many rounds in a row without an update to give.
        policy: what it asks of an offer.
        max_model_bytes: how long an announcement to take, the model in it.
        give_up: seconds without a word of the server's.
        once: whether one round is enough.
    """

    client_id: ClientId
    address: Address
    tls: Credentials | Plaintext
    server_name: str | None = None
    identity_key: Path | None = None
    directory: Path | None = None
    state: Path | None = None
    policy: Policy
    max_model_bytes: int
    give_up: float
    once: bool = False
    training: str | None = None
    max_rounds: int = 1000
    max_failed_rounds: int = 100
    limits: Limits = field(default_factory=Limits)


class DeclinedError(SessionRefusedError):
    """The client's own decision: with this server there is nothing to be had."""


class OverError(SessionRefusedError):
    """The server has no more rounds."""


class ModeError(SessionRefusedError):
    """Identities are for malicious mode only: which mode it is, the offer says."""


def check_offer(offer: Offer, options: JoinOptions, data: LocalData) -> Announcement:
    """What is announced in an offer that this client takes.

    Raises:
        DeclinedError: it does not take it.
        OlderServerError: the server announces in a version that is not read here any more.
        OverError: there are no more rounds.
    """
    most = options.max_model_bytes
    if len(offer.extra) > most:
        text = f"an announcement of {len(offer.extra):,} bytes, but this client takes {most:,} (--max-model-bytes)"
        raise DeclinedError(text, told=text)
    try:
        announced = decode_announcement(offer.extra)
    except OlderAnnouncementError as error:
        raise OlderServerError(str(error), told=str(error)) from None
    except AnnouncementVersionError as error:
        raise DeclinedError(str(error), told=str(error)) from None
    except AnnouncementError as error:
        raise DeclinedError(str(error), told="its announcement cannot be read") from None
    if isinstance(announced, TrainingOver):
        raise OverError("the training is over")
    _check_policy(announced, offer, options.policy, data)
    if announced.round != offer.number:
        text = f"round {announced.round} is announced for session {offer.number}"
        raise DeclinedError(text, told=text)
    return announced


def _check_policy(announced: Announcement, offer: Offer, policy: Policy, data: LocalData) -> None:
    """Ask the policy. What its reasons say of this client's data, the server is not told."""
    try:
        policy.check(offer.params)
    except PolicyError as error:
        raise DeclinedError(str(error), told=str(error)) from None
    try:
        policy.check_training(announced, offer.params, data)
    except PolicyError as error:
        told = error.public if isinstance(error, TrainingPolicyError) else ""
        raise DeclinedError(str(error), told=told) from None
