"""What defines a training run: checked here once, stored beside its results, and enough to repeat it."""

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from fl.aggregation.encoding import MAX_VALUE_BITS, MIN_VALUE_BITS
from fl.aggregation.scales import MAX_CLIP, MIN_CLIP
from fl.errors import ConfigError
from secagg import Round
from transport.errors import printable
from transport.faults import ROUNDS_OF_EVERY_SESSION

# The command line reads its defaults here; it must not wait seconds for torch to do so.
if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from fl.learning.server_optimizer import ServerOptimization
    from fl.learning.training import LocalTraining

AggregatorName = Literal["secure", "plain"]
DropoutModel = Literal["independent", "slow"]

ENGINES: tuple[str, ...] = ("serial", "processes", "batched", "ray")
"""Where clients are trained; see `fl.engines`."""


def _value_bits_for(num_clients: int) -> int:
    """The most bits, up to 24, that the sum of so many clients' values fits 32 bits with."""
    return min(24, 32 - (num_clients - 1).bit_length())


DROPOUT_POINTS: dict[str, tuple[Round, ...]] = {
    "any": ROUNDS_OF_EVERY_SESSION,
    "advertise-keys": (Round.ADVERTISE_KEYS,),
    "share-keys": (Round.SHARE_KEYS,),
    "masked-input-collection": (Round.MASKED_INPUT_COLLECTION,),
    "unmasking": (Round.UNMASKING,),
}
"""Where clients vanish: before or while they send their message of that round of the protocol."""

Before: TypeAlias = dict[str, Callable[[dict[str, Any]], Any]]
"""Settings that came after the first version, each with what runs of the other settings did before there was one."""

# A stored run that lacks one goes on as it was; that is not always the default of new runs.
_ADDED: Before = {}

_MOST = 2**31 - 1
_MOST_THREADS = 1024

# Of a data set of the user's own nothing is known: the model that takes examples of any shape.
_DEFAULT_MODEL = {"digits": "small-cnn"}
_DEFAULT_PARTITION = {"mnist-writers": "by-writer", "leaf-femnist": "by-writer"}

# The adaptive rules' steps do not shrink with the update: a rate of 1 would wreck the model.
_SERVER_RATES = {"fedavg": 1.0, "fedavgm": 1.0, "fedadagrad": 0.1, "fedadam": 0.03, "fedyogi": 0.03}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A federated training run.

    Attributes:
        dataset: one of `fl.data.DATASETS`, or ``package.module:loader`` of your own (`fl.learning.own_code`).
        model: one of `fl.learning.models.MODELS`, or ``package.module:factory`` of your own; by default one that
            suits the data set.
        clients: how many clients the training data is dealt out to.
        sample: how many of them take part in each round; by default all.
        rounds: communication rounds.
        epochs, batch_size, learning_rate, momentum, weight_decay, optimizer, proximal: of the clients' local training;
            see `fl.learning.training.LocalTraining`.
        learning_rate_decay: what the clients' learning rate is multiplied by after each round.
        server_optimizer, server_learning_rate, server_momentum, server_beta2, server_tau: what the server does with the
            mean update; see `fl.learning.server_optimizer.ServerOptimization`. FedAvg multiplies it by the learning
            rate and adds it. The rate is by default 1 for FedAvg and FedAvgM, 0.1 for FedAdagrad, 0.03 for the others.
        partition: one of `fl.data.partition.SCHEMES`; by default by writer for mnist-writers and leaf-femnist, else
            iid: a data set of your own as well, whose examples belong to somebody or not.
        alpha: of the Dirichlet partition.
        shards_per_client: of the shards partition.
        dropout: the fraction of the sampled clients that vanish in each round.
        dropout_at: where they vanish, keys of `DROPOUT_POINTS`.
        dropout_model: ``independent``: each is as likely to vanish as any other; ``slow``: clients have speeds, and the
            slow ones vanish more often, the same ones again and again (`fl.runs.sampling`).
        holdout: the fraction of each client's examples that it never learns from; the global model is measured on
            them after each round, by secure aggregation of the counts. 0: no such measurement.
        corrupt: the fraction of clients that may work together with the server; raises the threshold.
        aggregator: `secure` or `plain`.
        compare: run both side by side, and check the secure sums against those of the same clients' vectors.
        clip: a fixed bound of all elements of updates, in the model's units; None: each tensor has a bound of its own,
            which follows the clients' updates (`fl.aggregation.scales`).
        value_bits: bits that an update's element is rounded to; by default 24, the precision of float32, or less where
            the sum of so many clients would not fit 32 bits: a wider ring costs twice the time.
        seed: of everything but keys and masks.
        engine: where clients are trained, one of `ENGINES`. With as many threads the sums are the same to the bit,
            except that ``batched`` rounds otherwise.
        threads: of torch while a client is trained, on which the last bits depend. By default one, but all cores for
            larger models (`fl.learning.cpu`) with the engine ``serial``, which trains one client at a time.
        channels_last, bfloat16: see `fl.learning.training.LocalTraining`.

    Raises:
        ConfigError: naming every value that is out of range.
    """

    dataset: str = "digits"
    model: str = ""
    clients: int = 40
    sample: int = 0
    rounds: int = 10
    epochs: int = 5
    batch_size: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.5
    optimizer: Literal["sgd", "adam"] = "sgd"
    weight_decay: float = 0.0
    proximal: float = 0.0
    learning_rate_decay: float = 1.0
    server_optimizer: Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"] = "fedavg"
    server_learning_rate: float | None = None
    server_momentum: float = 0.9
    server_beta2: float = 0.99
    server_tau: float = 1e-3
    partition: str = ""
    alpha: float = 0.5
    shards_per_client: int = 2
    dropout: float = 0.0
    dropout_at: tuple[str, ...] = ("any",)
    dropout_model: DropoutModel = "independent"
    holdout: float = 0.0
    corrupt: float = 0.0
    aggregator: AggregatorName = "secure"
    compare: bool = False
    clip: float | None = None
    value_bits: int = 0
    seed: int = 0
    engine: str = "serial"
    threads: int = 0
    channels_last: bool = True
    bfloat16: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        for name in ("clients", "sample", "value_bits"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        # Defaults that depend on other values are settled here, so that what is stored says all.
        settled = {
            "model": self.model or _DEFAULT_MODEL.get(self.dataset, "2nn" if ":" in self.dataset else "cnn"),
            "partition": self.partition or _DEFAULT_PARTITION.get(self.dataset, "iid"),
            "sample": self.sample or self.clients,
            "dropout_at": tuple(self.dropout_at),
            "server_learning_rate": (
                _SERVER_RATES.get(self.server_optimizer, 1.0)
                if self.server_learning_rate is None
                else self.server_learning_rate
            ),
            "value_bits": self.value_bits or max(MIN_VALUE_BITS, _value_bits_for(self.sample or self.clients)),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        if problems := self._problems():
            raise ConfigError("; ".join(problems))

    def _problems(self) -> list[str]:
        from fl.data import DATASETS
        from fl.data.partition import SCHEMES
        from fl.learning.models import MODELS

        problems = []
        choices = {
            "dataset": (self.dataset, DATASETS),
            "model": (self.model, MODELS),
            "partition": (self.partition, SCHEMES),
            "aggregator": (self.aggregator, ("secure", "plain")),
            "dropout model": (self.dropout_model, get_args(DropoutModel)),
            "engine": (self.engine, ENGINES),
        }
        for name, (value, known) in choices.items():
            if value in known:
                continue
            if name not in ("dataset", "model") or ":" not in value:
                problems.append(f"unknown {name} {value!r}; known are {', '.join(known)}")
            elif printable(value) != value:
                problems.append(f"{name} {value!r} is too long, or has characters that cannot be shown")
        for point in self.dropout_at:
            if point not in DROPOUT_POINTS:
                problems.append(f"unknown dropout point {point!r}; known are {', '.join(DROPOUT_POINTS)}")
        for name in ("clients", "rounds", "epochs", "batch_size", "shards_per_client"):
            value = getattr(self, name)
            if not 1 <= value <= _MOST:
                problems.append(f"{name} must be at {f'least 1, not {value}' if value < 1 else f'most {_MOST}'}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            problems.append(f"alpha must be a number above 0, not {self.alpha}")
        if not MIN_VALUE_BITS <= self.value_bits <= MAX_VALUE_BITS:
            problems.append(f"value_bits must be between {MIN_VALUE_BITS} and {MAX_VALUE_BITS}, not {self.value_bits}")
        if self.clip is not None and not MIN_CLIP <= self.clip <= MAX_CLIP:
            problems.append(f"clip must be between {MIN_CLIP:g} and {MAX_CLIP:g}, not {self.clip}")
        if self.aggregator == "secure" and self.clients == 1:
            problems.append("secure aggregation needs at least 2 clients: the sum of one update is that update")
        if self.clients >= 1 and not 1 <= self.sample <= self.clients:
            problems.append(f"sample must be between 1 and the {self.clients} clients, not {self.sample}")
        if not 0 <= self.threads <= _MOST_THREADS:
            problems.append(f"threads must be between 1 and {_MOST_THREADS}, or 0 for a default, not {self.threads}")
        for name in ("dropout", "corrupt", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be a fraction, at least 0 and below 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate_decay <= 1:
            problems.append(f"learning_rate_decay must be above 0 and at most 1, not {self.learning_rate_decay}")
        if not 0 <= self.seed < 2**63:
            problems.append(f"seed must be at least 0 and below 2^63, not {self.seed}")
        if self.compare and self.aggregator != "secure":
            problems.append("compare runs the plain aggregator beside the secure one: leave aggregator at secure")
        parts = ["server_optimization"]
        if self.epochs >= 1 and self.batch_size >= 1:
            parts.append("local_training")
        for part in parts:
            try:
                getattr(self, part)
            except ConfigError as error:
                problems.append(str(error))
        return problems

    @property
    def local_training(self) -> "LocalTraining":
        """The clients' part of it, in the first round; ConfigError if it is out of range."""
        return self.local_training_in(1)

    def local_training_in(self, number: int) -> "LocalTraining":
        """The clients' part of the round of that number, from 1."""
        from fl.learning.training import LocalTraining

        # No lower than the smallest normal float: a rate of 0 would be refused, in the middle of a run.
        decayed = self.learning_rate * self.learning_rate_decay ** (number - 1)
        return LocalTraining(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=decayed if number == 1 else max(decayed, sys.float_info.min),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            optimizer=self.optimizer,
            proximal=self.proximal,
            channels_last=self.channels_last,
            bfloat16=self.bfloat16,
        )

    @property
    def server_optimization(self) -> "ServerOptimization":
        """The server's part of it; ConfigError if it is out of range."""
        from fl.learning.server_optimizer import ServerOptimization

        assert self.server_learning_rate is not None  # noqa: S101 - settled above
        return ServerOptimization(
            name=self.server_optimizer,
            learning_rate=self.server_learning_rate,
            momentum=self.server_momentum,
            beta2=self.server_beta2,
            tau=self.server_tau,
        )

    @property
    def dropout_rounds(self) -> tuple[Round, ...]:
        """The rounds of the protocol in which clients vanish."""
        chosen = {round_ for point in self.dropout_at for round_ in DROPOUT_POINTS[point]}
        return tuple(round_ for round_ in Round if round_ in chosen)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "dropout_at": list(self.dropout_at)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """What `to_json` gave, of this version or an earlier one; ConfigError for unknown or missing names."""
        return cls(**completed(values, cls, _ADDED))


def completed(values: dict[str, Any], kind: type["DataclassInstance"], added: Before) -> dict[str, Any]:
    """Stored values for each field of a dataclass, those of an earlier version with what ``added`` has for it.

    Raises:
        ConfigError: a name that is not known here, and whose meaning nobody can guess; or one that is missing.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    values = {**{name: before(values) for name, before in added.items() if name not in values}, **values}
    unknown, missing = sorted(values.keys() - names), sorted(names - values.keys())
    if unknown or missing:
        problems = [
            f"{', '.join(wrong)} {what}" for wrong, what in ((unknown, "not known here"), (missing, "missing")) if wrong
        ]
        raise ConfigError(
            f"a stored run of another version: {'; '.join(problems)}; go on with the version that wrote it, or a later "
            "one"
        )
    return values
