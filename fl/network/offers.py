"""A client's options, and its answer to an offer: accept, decline, or ask again in another mode.

The reason that the server is told never reveals anything of the client's data.
"""

from dataclasses import dataclass, field
from pathlib import Path

from fl.aggregation.session_policy import PolicyError
from fl.learning.settings import Personal
from fl.network.announcement import RoundAnnouncement, TrainingOver, decode_announcement
from fl.network.errors import AnnouncementError, AnnouncementVersionError, OlderAnnouncementError
from fl.network.local_data import LocalData
from fl.network.policy import Policy, TrainingPolicyError
from fl.privacy.policy import PrivacyAccount
from secagg import ClientId
from transport import Offer, OlderServerError, SessionRefusedError
from transport.certificates.reading import Credentials
from transport.tcp import Address, Limits, Plaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """The options of a client.

    Attributes:
        client_id: the id in the client's certificate.
        address: the address of the server, or several of one server.
        tls: the client's certificate and key, or `Plaintext` for no TLS.
        server_name: the name in the server's certificate. None: the host of the address.
        identity_key: in malicious mode, the client's key file.
        directory: in malicious mode, the folder with the certificates of all clients and the authority.
        state: a folder for the journal, its key, and the record of answered rounds. None: there is no journal, so that
            a crash loses the round, and the record is in the user's own folder (`fl.aggregation.participation`).
        training: the client's own name for the training, in which it answers each round once. It must not depend on
            the server's messages or address, which the server could change to start again at will.
        max_rounds: the most rounds to answer in this training.
        limits: the limits of the connection.
        device: the device of the training, one of `fl.learning.devices.DEVICES`.
        max_failed_rounds: the client stops after this many rounds in a row in which it had no update.
        policy: the client's requirements for an offer.
        max_model_bytes: the largest announcement to accept, with its model.
        give_up: the client stops after this many seconds without a message from the server.
        once: whether the client stops after one round.
        holdout: the fraction of the examples to hold out of training and to measure models on. None: as the server
            asks, up to a half.
        out: a folder for the global model that was received last, and the client's own model. None: none is kept.
        personal: how the client makes a model of its own.
    """

    client_id: ClientId
    address: Address | tuple[Address, ...]
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
    device: str = "cpu"
    limits: Limits = field(default_factory=Limits)
    holdout: float | None = None
    out: Path | None = None
    personal: Personal = field(default_factory=Personal)


class DeclinedError(SessionRefusedError):
    """This client declines the offer, and does not come back."""


class OverError(SessionRefusedError):
    """The server has no more rounds; `final` is the announcement of the final model, if it sends one."""

    def __init__(self, final: RoundAnnouncement | None) -> None:
        super().__init__("the training is over")
        self.final = final


class ModeError(SessionRefusedError):
    """The offer has another mode than this client was ready for: only malicious mode has identities."""


def check_offer(
    offer: Offer, options: JoinOptions, data: LocalData, account: PrivacyAccount | None
) -> RoundAnnouncement:
    """Return the announcement of an offer that this client accepts; ``account`` is that of its privacy.

    Raises:
        DeclinedError: the client does not accept the offer.
        OlderServerError: the announcement has a version that is no longer read here.
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
        raise OverError(announced.final)
    _check_policy(announced, offer, options.policy, data, account)
    if announced.round != offer.number:
        text = f"round {announced.round} is announced for session {offer.number}"
        raise DeclinedError(text, told=text)
    return announced


def _check_policy(
    announced: RoundAnnouncement, offer: Offer, policy: Policy, data: LocalData, account: PrivacyAccount | None
) -> None:
    """Check the policy; the server is not told the reasons that reveal this client's data."""
    try:
        policy.check_session(announced, offer.params, account)
    except PolicyError as error:
        raise DeclinedError(str(error), told=_told(error, str(error))) from None
    try:
        policy.check_training(announced, offer.params, data)
    except PolicyError as error:
        raise DeclinedError(str(error), told=_told(error, "")) from None


def _told(error: PolicyError, otherwise: str) -> str:
    return error.public if isinstance(error, TrainingPolicyError) else otherwise
