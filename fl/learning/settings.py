"""How clients and the server train: numbers that are checked once, and known without torch."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

from fl.errors import ConfigError

Precision = Literal["auto", "on", "off"]
OptimizerName = Literal["sgd", "adam"]
OptimizerFactory: TypeAlias = Callable[[list[Any]], Any]
ServerOptimizerName = Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"]
PersonalMethod = Literal["head", "full", "proximal", "ditto"]
SERVER_OPTIMIZERS: tuple[ServerOptimizerName, ...] = get_args(ServerOptimizerName)

# The adaptive rules' steps do not shrink with the update: a rate of 1 would wreck the model.
_SERVER_RATES = {"fedadagrad": 0.1, "fedadam": 0.03, "fedyogi": 0.03}
_MOST = 2**31 - 1

IN_PROGRAM = "python"
"""Stands for the module of an object that has no name by which another program could import it."""


def not_numbers(settings: Any) -> list[str]:
    """Return one message for each setting that is no number where its default is one."""
    given = {
        field.name: getattr(settings, field.name) for field in fields(settings) if type(field.default) in (int, float)
    }
    return [f"{name} must be a number, not {value!r}" for name, value in given.items() if not isinstance(value, Real)]


@dataclass(frozen=True)
class LostOptimizer:
    """Stands for an optimizer that was an object of the program that stored the run."""

    name: str

    def __repr__(self) -> str:
        return self.name

    def __call__(self, _: list[Any]) -> Any:
        """Raise ConfigError."""
        raise ConfigError(f"the optimizer {self} was an object of a Python program: go on in that program")


@dataclass(frozen=True)
class Local:
    """How a client trains.

    In bfloat16 only the layers' arithmetic is; weights, gradients and their sums stay float32.

    Attributes:
        epochs: passes through the client's examples, a round.
        batch_size: examples of a step.
        learning_rate: in the first round.
        momentum: of SGD.
        channels_last: images lie in memory with their channels last, which is faster.
        bfloat16: see `fl.learning.cpu` for ``auto``.
        weight_decay: of either optimizer.
        optimizer: ``sgd``, or ``adam`` (Kingma and Ba 2015, with torch's defaults); in Python also a function of the
            parameters that returns a `torch.optim.Optimizer`. It then sets learning rate, momentum and weight decay,
            and the settings of these names are not used.
        proximal: FedProx's mu (Li et al. 2020, arXiv:1812.06127): mu/2 ||w - w0||^2 is added to the loss, w0 being the
            weights that the client began with.
        learning_rate_decay: the learning rate is multiplied by this after each round.

    Raises:
        ConfigError: naming every value that is out of range.
    """

    epochs: int = 5
    batch_size: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.5
    channels_last: bool = True
    bfloat16: Precision = "auto"
    weight_decay: float = 0.0
    optimizer: OptimizerName | OptimizerFactory = "sgd"
    proximal: float = 0.0
    learning_rate_decay: float = 1.0

    def __post_init__(self) -> None:
        if problems := not_numbers(self):
            raise ConfigError("; ".join(problems))
        problems = [
            f"{name} must be at {f'least 1, not {value}' if value < 1 else f'most {_MOST}'}"
            for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size))
            if not 1 <= value <= _MOST
        ]
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            problems.append(f"learning_rate must be a positive number, not {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            problems.append(f"momentum must be in [0, 1), not {self.momentum}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            problems.append(f"weight_decay must be finite and at least 0, not {self.weight_decay}")
        if not (math.isfinite(self.proximal) and self.proximal >= 0):
            problems.append(f"proximal must be finite and at least 0, not {self.proximal}")
        if not 0 < self.learning_rate_decay <= 1:
            problems.append(f"learning_rate_decay must be above 0 and at most 1, not {self.learning_rate_decay}")
        if callable(self.optimizer):
            if self.learning_rate_decay != 1:
                problems.append("learning_rate_decay is for the optimizers sgd and adam, not for one of your own")
        elif self.optimizer not in get_args(OptimizerName):
            problems.append(f"optimizer must be one of {', '.join(get_args(OptimizerName))}, not {self.optimizer!r}")
        if self.bfloat16 not in get_args(Precision):
            problems.append(f"bfloat16 must be one of {', '.join(get_args(Precision))}, not {self.bfloat16!r}")
        if problems:
            raise ConfigError("; ".join(problems))

    def in_round(self, number: int) -> "Local":
        """Return the training of round ``number``, from 1, with the learning rate that it has then."""
        if callable(self.optimizer):
            return self
        # No lower than the smallest normal float: a rate of 0 would be refused, in the middle of a run.
        decayed = max(self.learning_rate * self.learning_rate_decay ** (number - 1), sys.float_info.min)
        return replace(self, learning_rate=decayed if number > 1 else self.learning_rate, learning_rate_decay=1.0)


@dataclass(frozen=True, kw_only=True)
class ServerOptimization:
    """How the server steps.

    Attributes:
        optimizer: one of `SERVER_OPTIMIZERS`.
        learning_rate: eta in the paper; FedAvg multiplies the mean update by it. None: `rate` has the rule's own.
        momentum: beta_1, of all but FedAvg.
        beta2: of FedAdam and FedYogi.
        tau: the adaptivity of FedAdagrad, FedAdam and FedYogi, added to the root of the second moment.

    Raises:
        ConfigError: naming every value that is out of range.
    """

    optimizer: ServerOptimizerName = "fedavg"
    learning_rate: float | None = None
    momentum: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if problems := not_numbers(self):
            raise ConfigError("; ".join(problems))
        problems = []
        if self.optimizer not in SERVER_OPTIMIZERS:
            problems.append(f"unknown server optimizer {self.optimizer!r}; known are {', '.join(SERVER_OPTIMIZERS)}")
        for label, value in (("server_learning_rate", self.rate), ("server_tau", self.tau)):
            if not (math.isfinite(value) and value > 0):
                problems.append(f"{label} must be above 0, not {value}")
        for label, value in (("server_momentum", self.momentum), ("server_beta2", self.beta2)):
            if not 0 <= value < 1:
                problems.append(f"{label} must be in [0, 1), not {value}")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def rate(self) -> float:
        """The learning rate; by default 1 for FedAvg and FedAvgM, 0.1 for FedAdagrad, 0.03 for the others."""
        return _SERVER_RATES.get(self.optimizer, 1.0) if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True, kw_only=True)
class Personal:
    """How each client makes a model of its own from the global one.

    Attributes:
        method: ``full``: the client trains the last global model further; ``head``: only its last layer; ``proximal``:
            all of it, pulled to the global weights; ``ditto``: it trains a second model beside the global one in each
            round (Li et al. 2021, arXiv:2012.04221). None: there are no personal models.
        epochs: passes through the client's examples (``ditto``: in each round). None: those of a round.
        learning_rate: None: that of the first round.
        strength: of the pull of ``proximal`` (FedProx's mu) and ``ditto`` (lambda).

    Raises:
        ConfigError: naming every value that is out of range.
    """

    method: PersonalMethod | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    strength: float = 0.1

    def __post_init__(self) -> None:
        if problems := not_numbers(self):
            raise ConfigError("; ".join(problems))
        problems = []
        if self.method not in (None, *get_args(PersonalMethod)):
            problems.append(f"personalize must be one of {', '.join(get_args(PersonalMethod))}, not {self.method!r}")
        if self.epochs is not None and not 1 <= self.epochs <= _MOST:
            problems.append(f"personal_epochs must be between 1 and {_MOST}, not {self.epochs}")
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            problems.append(f"personal_learning_rate must be a positive number, not {rate}")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            problems.append(f"personal_strength must be finite and at least 0, not {self.strength}")
        if problems:
            raise ConfigError("; ".join(problems))

    def training(self, local: Local) -> Local:
        """Return the training of a personal model, where a round's training is ``local``."""
        return replace(
            local,
            epochs=self.epochs or local.epochs,
            learning_rate=self.learning_rate or local.learning_rate,
            learning_rate_decay=1.0,
            proximal=self.strength if self.method == "proximal" else 0.0,
        )
