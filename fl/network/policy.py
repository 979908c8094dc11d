"""A client's requirements for an offer, checked before it takes part: the client does not trust the server."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import safetensors
from torch import nn

from fl.aggregation.encoding import MAX_VALUE_BITS, MIN_VALUE_BITS, UpdateEncoding
from fl.aggregation.held_out import held_out_encoding
from fl.aggregation.private_session import PrivateEncoding, PrivateFigures, ScoresEncoding
from fl.aggregation.scales import MAX_WEIGHT
from fl.aggregation.session_policy import PolicyError, SessionPolicy
from fl.aggregation.totals import TotalsEncoding
from fl.errors import ConfigError
from fl.learning.figures import FigureRange
from fl.learning.models import model_outline
from fl.learning.own_code import is_reference
from fl.learning.parameter_layout import ParameterLayout, frozen_digest
from fl.learning.serialization import check_size, load_round_message
from fl.learning.task import Task
from fl.network.announcement import RoundAnnouncement
from fl.network.local_data import LocalData
from fl.privacy.policy import PrivacyAccount, PrivacyPolicy
from fl.privacy.terms import PrivateTerms
from secagg import Parameters
from transport.errors import printable

Encoding: TypeAlias = UpdateEncoding | TotalsEncoding | PrivateEncoding | ScoresEncoding
"""How the input of a session is encoded."""

_NO_NOISE = "the session has no noise, and this client asks for it"
# A server need not know what a client has spent elsewhere, or what its limits are.
_BEYOND_LIMITS = "the session is not within this client's limits of privacy"


class TrainingPolicyError(PolicyError):
    """The client refuses the announced training.

    Attributes:
        public: the reasons that reveal nothing of the client's data, or what is told in their place; may be empty.
    """

    def __init__(self, public: list[str], private: list[str], told: str = "") -> None:
        super().__init__("; ".join((*private, *public)))
        self.public = told or "; ".join(public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(SessionPolicy):
    """A client's requirements for the session (`secagg.SessionPolicy`, with its defaults) and for the training.

    Attributes:
        max_epochs: the most local epochs per round.
        max_classes: the most classes of a model; the server sends the number of classes, and the user's own model is
            built for it.
        own_model: the user's own model, ``package.module:factory``, that is accepted beside those of
            `fl.learning.models`: a client never imports code only because the server names it.
        own_loss, own_metrics: the user's own loss and metrics, ``package.module:name``, as for the model.
        privacy: the limits of what rounds may give away of this client. None: no limits, and rounds without noise too.
    """

    max_epochs: int = 100
    max_classes: int = 1000
    own_model: str = ""
    own_loss: str = ""
    own_metrics: tuple[str, ...] = ()
    privacy: PrivacyPolicy | None = None

    def check_session(
        self, announcement: RoundAnnouncement, params: Parameters, account: PrivacyAccount | None
    ) -> None:
        """Raise PolicyError, with all reasons, unless this client accepts the session and what it gives away.

        Args:
            announcement: the session's announcement.
            params: its parameters.
            account: what this client has spent of its limits; None without limits.
        """
        # Noise is added modulo the ring.
        replace(self, may_wrap=announcement.privacy is not None).check(params)
        if account is None:
            return
        try:
            account.check(announcement.privacy, params)
        except PolicyError as error:
            told = _NO_NOISE if announcement.privacy is None else _BEYOND_LIMITS
            raise TrainingPolicyError([], [str(error)], told) from None

    def check_training(
        self, announcement: RoundAnnouncement, params: Parameters, data: LocalData
    ) -> tuple[nn.Module, Encoding]:
        """Return the announced model, and the encoding of its updates, or of the scores, as integers.

        Raises:
            PolicyError: as for `check_model`, or the model does not fit the session.
        """
        model, task = self.check_model(announcement, data)
        try:
            encoding = encoding_of(announcement, task.figures, ParameterLayout.of(model).sizes, params.num_clients)
        except ConfigError as error:
            raise PolicyError(f"updates of the announced model cannot be encoded: {error}") from None
        if announcement.privacy is not None and (reasons := announcement.privacy.contradictions(params)):
            _raise(reasons)
        if isinstance(encoding, PrivateEncoding | ScoresEncoding):
            encoding = type(encoding).of(encoding.mechanism, encoding.figures, params)
        if encoding.value_bits != params.value_bits or encoding.vector_length != params.vector_length:
            _raise(
                [
                    f"updates have {encoding.vector_length} values of {encoding.value_bits} bits, but the session's "
                    f"vectors {params.vector_length} of {params.value_bits}"
                ]
            )
        return model, encoding

    def check_model(self, announcement: RoundAnnouncement, data: LocalData) -> tuple[nn.Module, Task]:
        """Return the announced model and task.

        Raises:
            PolicyError: the model does not fit its own announcement or the client's data; a TrainingPolicyError has the
                reasons that the server may be told.
        """
        reasons: list[str] = []
        private: list[str] = []
        data = data.shaped_for(announcement.image_shape, announcement.input_type)
        if announcement.image_shape != data.image_shape:
            private.append(f"the model is for examples {announcement.image_shape}, but these are {data.image_shape}")
        if str(data.images.dtype) != f"torch.{announcement.input_type}":
            private.append(f"the model is for {announcement.input_type}, and these examples are no such numbers")
        if announcement.num_classes > 1 and data.max_label >= announcement.num_classes:
            private.append(f"the model knows {announcement.num_classes} classes, but there is a label {data.max_label}")
        if announcement.num_classes > self.max_classes:
            reasons.append(f"{announcement.num_classes} classes, but this client takes at most {self.max_classes}")
        if announcement.training.epochs > self.max_epochs:
            reasons.append(f"{announcement.training.epochs} epochs, but this client does at most {self.max_epochs}")
        # Check the server's numbers against this client's own data before a model is built from them.
        _raise(reasons, private)
        task = self._announced_task(announcement)
        return _received_model(announcement, self.own_model, task, data), task

    def _announced_task(self, announcement: RoundAnnouncement) -> Task:
        own = {"loss": (self.own_loss,), "metric": self.own_metrics}
        named = [("loss", announcement.loss), *(("metric", name) for name in announcement.metrics)]
        _raise(
            [
                f"the {what} is {printable(name)}: if that is your own code on this machine, give it with --{what}"
                for what, name in named
                if is_reference(name) and name not in own[what]
            ]
        )
        try:
            return Task(announcement.loss, announcement.metrics)
        except ConfigError as error:
            raise PolicyError(printable(str(error))) from None


def encoding_of(
    announcement: RoundAnnouncement, figures: tuple[FigureRange, ...], sizes: tuple[int, ...], num_clients: int
) -> Encoding:
    """Return the encoding of an announced session's inputs; ConfigError if a number is out of range.

    Args:
        announcement: the announcement.
        figures: the ranges of the task's loss and metrics.
        sizes: elements of each tensor of an update.
        num_clients: the number of clients of the session.
    """
    if announcement.privacy is not None:
        stated = {name: (low, high) for name, low, high in announcement.privacy.figure_ranges}
        own = PrivateFigures.of_task(figures, stated, announcement.num_classes)
        return _private_encoding(announcement, announcement.privacy, own, sum(sizes))
    if announcement.purpose == "scores":
        if not MIN_VALUE_BITS <= announcement.value_bits <= MAX_VALUE_BITS:
            raise ConfigError(
                f"value bits must be between {MIN_VALUE_BITS} and {MAX_VALUE_BITS}, not {announcement.value_bits}"
            )
        return held_out_encoding(figures, MAX_WEIGHT, announcement.value_bits)
    return UpdateEncoding(
        sizes=sizes,
        num_clients=num_clients,
        value_bits=announcement.value_bits,
        scales=announcement.scales,
        figures=figures,
    )


def _private_encoding(
    announcement: RoundAnnouncement, terms: PrivateTerms, figures: PrivateFigures, length: int
) -> PrivateEncoding | ScoresEncoding:
    own = terms.mechanism
    if announcement.purpose == "scores":
        fits = (own.length, own.figures) == (figures.num_scores, 0)
    else:
        fits = own.length == length and own.figures in (0, len(figures.of_updates))
    if not fits:
        raise ConfigError(
            f"the terms are for {own.length} values and {own.figures} figures, but the model has {length} and the task "
            f"{len(figures.of_updates)}"
        )
    if announcement.purpose == "scores":
        return ScoresEncoding(own, figures, None)
    return PrivateEncoding(own, figures if own.figures else None, None)


def _received_model(announcement: RoundAnnouncement, own_model: str, task: Task, data: LocalData) -> nn.Module:
    name, numbers = announcement.model, (announcement.image_shape, announcement.num_classes)
    if is_reference(name) and name != own_model:
        _raise([f"the model is {printable(name)}: if that is your own code on this machine, give it with --model"])
    try:
        # Allocate a model only if it is as large as the bytes that came.
        if not is_reference(name):
            check_size(model_outline(name, *numbers), announcement.model_bytes)
        model = task.make_model(
            name, data.images.dtype, data.labels, image_shape=numbers[0], num_classes=numbers[1], seed=announcement.seed
        )
        check_size(model, announcement.model_bytes)
        _check_frozen(model, announcement)
        load_round_message(model, announcement.model_bytes)
    except ConfigError as error:
        raise PolicyError(str(error)) from None
    except (safetensors.SafetensorError, RuntimeError, ValueError, KeyError) as error:
        why = printable(" ".join(str(error).split()))
        raise PolicyError(f"the model that came is not a {name} of this size: {why}") from None
    return model


def _check_frozen(model: nn.Module, announcement: RoundAnnouncement) -> None:
    """Decline with a reason: the session's context would end the round without one."""
    if (own := frozen_digest(model)) != announcement.frozen_sha256:
        _raise(
            [
                f"the frozen parameters of {announcement.model} differ (SHA-256 {own.hex()[:12]} here, "
                f"{announcement.frozen_sha256.hex()[:12]} at the server): give both sides the same weights and code"
            ]
        )


def _raise(public: list[str], private: list[str] | None = None) -> None:
    if public or private:
        raise TrainingPolicyError(public, private or [])
