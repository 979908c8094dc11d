"""What a client asks of an offer before it takes part: the server proposes, and is not believed."""

from dataclasses import dataclass

import safetensors
from torch import nn

from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.session_policy import PolicyError, SessionPolicy
from fl.errors import ConfigError
from fl.learning.models import model_outline
from fl.learning.own_code import is_reference, make_model
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.serialization import check_size, load_model
from fl.network.announcement import Announcement
from fl.network.local_data import LocalData
from secagg import Parameters
from transport.errors import printable


class TrainingPolicyError(PolicyError):
    """The announced training is not one that this client takes.

    Attributes:
        public: those of the reasons that say nothing of the client's data; perhaps none.
    """

    def __init__(self, public: list[str], private: list[str]) -> None:
        super().__init__("; ".join((*private, *public)))
        self.public = "; ".join(public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(SessionPolicy):
    """What a client insists on: of the session (`secagg.SessionPolicy`, and its defaults), and of the training.

    Attributes:
        max_epochs: the most local epochs a round.
        max_classes: the most classes that a model may know. The server says how many, and a model of the user's own
            is made for as many.
        own_model: a model of the user's own, ``package.module:factory``, to take beside those of
            `fl.learning.models`: the server's word alone makes no client import anything.
    """

    max_epochs: int = 100
    max_classes: int = 1000
    own_model: str = ""

    def check_training(
        self, announcement: Announcement, params: Parameters, data: LocalData
    ) -> tuple[nn.Module, UpdateEncoding]:
        """The announced model, and how its updates become integers.

        Raises:
            PolicyError: they do not fit their own announcement, the session, or the client's data; a
                TrainingPolicyError says which reasons the server may be told.
        """
        reasons: list[str] = []
        private: list[str] = []
        data = data.shaped_for(announcement.image_shape)
        if announcement.image_shape != data.image_shape:
            private.append(f"the model is for examples {announcement.image_shape}, but these are {data.image_shape}")
        if data.max_label >= announcement.num_classes:
            private.append(f"the model knows {announcement.num_classes} classes, but there is a label {data.max_label}")
        if announcement.num_classes > self.max_classes:
            reasons.append(f"{announcement.num_classes} classes, but this client takes at most {self.max_classes}")
        if announcement.training.epochs > self.max_epochs:
            reasons.append(f"{announcement.training.epochs} epochs, but this client does at most {self.max_epochs}")
        # Before a model is made of the server's numbers, they are those of this client's own data.
        _raise(reasons, private)
        model = _received_model(announcement, self.own_model)
        try:
            encoding = UpdateEncoding(
                sizes=ParameterLayout.of(model).sizes,
                num_clients=params.num_clients,
                value_bits=announcement.value_bits,
                scales=announcement.scales,
            )
        except ConfigError as error:
            raise PolicyError(f"updates of the announced model cannot be encoded: {error}") from None
        if encoding.value_bits != params.value_bits or encoding.vector_length != params.vector_length:
            _raise(
                [
                    f"updates have {encoding.vector_length} values of {encoding.value_bits} bits, but the session's "
                    f"vectors {params.vector_length} of {params.value_bits}"
                ]
            )
        return model, encoding


def _received_model(announcement: Announcement, own_model: str) -> nn.Module:
    name, numbers = announcement.model, (announcement.image_shape, announcement.num_classes)
    if is_reference(name) and name != own_model:
        _raise([f"the model is {printable(name)}: if that is a module of your own here, give it by --model"])
    try:
        # Memory is taken for a model only once it is known to be as large as what came.
        if not is_reference(name):
            check_size(model_outline(name, *numbers), announcement.model_bytes)
        model = make_model(name, image_shape=numbers[0], num_classes=numbers[1], seed=0)
        check_size(model, announcement.model_bytes)
        load_model(model, announcement.model_bytes)
    except ConfigError as error:
        raise PolicyError(str(error)) from None
    except (safetensors.SafetensorError, RuntimeError, ValueError, KeyError) as error:
        why = printable(" ".join(str(error).split()))
        raise PolicyError(f"the model that came is no {name} of this size: {why}") from None
    return model


def _raise(public: list[str], private: list[str] | None = None) -> None:
    if public or private:
        raise TrainingPolicyError(public, private or [])
