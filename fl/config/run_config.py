"""The settings that define a training run: checked once, stored with the results, and enough to repeat the run."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_type_hints

from fl.aggregation.encoding import MAX_VALUE_BITS, MIN_VALUE_BITS
from fl.aggregation.planning import AdversaryName, GraphName, name_of, name_problems
from fl.aggregation.scales import MAX_CLIP, MIN_CLIP
from fl.config.privacy import Privacy
from fl.config.setting import Setting, not_counts, not_fractions, not_of_types, not_whole, take_whole_numbers, unknown
from fl.config.stored import Before, completed
from fl.errors import ConfigError
from fl.learning.settings import IN_PROGRAM, Local, LostOptimizer, Personal, ServerOptimization, not_numbers
from secagg import Adversary, GraphKind, Round, cheapest_graph
from transport.errors import printable
from transport.faults import ROUNDS_OF_EVERY_SESSION

AggregatorName = Literal["secure", "plain"]
DropoutModel = Literal["independent", "slow"]

# The names of `fl.learning.task`, known without torch.
CROSS_ENTROPY, ACCURACY = "cross-entropy", "accuracy"

ENGINES: tuple[str, ...] = ("serial", "processes", "batched", "ray")
"""The ways to train clients; see `fl.engines`."""


def _value_bits_for(num_clients: int) -> int:
    """Return the most bits per value, up to 24, with which the sum over ``num_clients`` clients fits 32 bits."""
    return min(24, 32 - (num_clients - 1).bit_length())


DROPOUT_POINTS: dict[str, tuple[Round, ...]] = {
    "any": ROUNDS_OF_EVERY_SESSION,
    "advertise-keys": (Round.ADVERTISE_KEYS,),
    "share-keys": (Round.SHARE_KEYS,),
    "masked-input-collection": (Round.MASKED_INPUT_COLLECTION,),
    "consistency-check": (Round.CONSISTENCY_CHECK,),
    "unmasking": (Round.UNMASKING,),
}
"""The rounds of the protocol in which clients can drop out: before or while they send that round's message."""

# A stored run that lacks a setting continues as before, which is not always the default of new runs.
_ADDED: Before = {
    "loss": lambda _: CROSS_ENTROPY,
    "metrics": lambda _: (ACCURACY,),
    **dict.fromkeys(("personalize", "personal_epochs", "personal_learning_rate"), lambda _: None),
    "personal_strength": lambda _: Personal().strength,
    # Before there was noise, each of these settings was what it is without an epsilon.
    **{one.name: partial(getattr, Privacy(), one.name) for one in dataclasses.fields(Privacy)},
    "graph": lambda _: "complete",
    "adversary": lambda _: None,
    "threshold": lambda _: None,
}

_MOST_THREADS = 1024

# For a data set of the user's own, the default is 2nn, which takes examples of any shape.
_DEFAULT_MODEL = {"digits": "small-cnn"}
_DEFAULT_PARTITION = {"mnist-writers": "by-writer", "leaf-femnist": "by-writer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """The data, the model, and the split of the data among clients.

    Attributes:
        dataset: one of `fl.data.DATASETS`, or your own as ``package.module:loader`` (`fl.learning.own_code`).
        model: one of `fl.learning.models.MODELS`, or your own as ``package.module:factory``. None: the usual one for
            the data set (`RunConfig.model`).
        loss: one of `fl.learning.task.LOSSES`, or your own as ``package.module:name``. None: cross-entropy.
        metrics: of `fl.learning.task.METRICS`, or your own. None: accuracy with cross-entropy, else none.
        clients: the number of clients among which the training data is split.
        partition: one of `fl.data.partition.SCHEMES`. None: by-writer for mnist-writers and leaf-femnist, else iid.
        alpha: the concentration of the Dirichlet partition.
        shards_per_client: the number of shards per client in the shards partition.
        holdout: the fraction of each client's examples that is kept out of training; after each round, the global
            model is measured on them by secure aggregation of the counts. 0: no such measurement.
    """

    dataset: str = "digits"
    model: str | None = None
    loss: str | None = None
    metrics: tuple[str, ...] | None = None
    clients: int = 40
    partition: str | None = None
    alpha: float = 0.5
    shards_per_client: int = 2
    holdout: float = 0.0

    def problems(self) -> Iterable[str]:
        """Yield one message for each value that is out of range."""
        from fl.data import DATASETS
        from fl.data.partition import SCHEMES
        from fl.learning.models import MODELS
        from fl.learning.task import LOSSES, METRICS

        for name, value, known in (
            ("dataset", self.dataset, DATASETS),
            ("model", self.model, MODELS),
            ("loss", self.loss, LOSSES),
            *(("metric", metric, METRICS) for metric in self.metrics or ()),
        ):
            if value is None or value in known:
                continue
            if ":" not in value:
                yield unknown(name, value, known)
            elif printable(value) != value:
                yield f"{name} {value!r} is too long or has unprintable characters: choose another name"
        if self.partition is not None and self.partition not in SCHEMES:
            yield unknown("partition", self.partition, SCHEMES)
        yield from not_counts(clients=self.clients, shards_per_client=self.shards_per_client)
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            yield f"alpha must be a number above 0, not {self.alpha}"
        yield from not_fractions(holdout=self.holdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The sample and dropouts of a round, and the aggregation of its updates.

    Attributes:
        graph: the graph of the clients that share masks: ``complete``, ``sparse``, or ``auto`` for the cheaper one that
            is safe for the threat (`secagg.cheapest_graph`); names or `secagg.GraphKind`.
        adversary: the server that the rounds withstand: ``honest-but-curious``, ``semi-malicious`` or ``malicious``;
            names or `secagg.Adversary`. None: honest-but-curious.
        corrupt: the fraction of clients that may collude with the server; raises the threshold.
        threshold: the number of clients whose shares unmask the sum; on a sparse graph, of a client's neighbours. None:
            the smallest that is safe.
        sample: the number of clients in each round. None: all.
        dropout: the fraction of the sampled clients that drop out in each round.
        dropout_at: the rounds of the protocol in which they drop out, keys of `DROPOUT_POINTS`.
        dropout_model: ``independent``: all clients are equally likely to drop out; ``slow``: each client has a speed,
            and slow clients drop out more often, the same ones in every round (`fl.runs.sampling`).
        aggregator: `secure` or `plain`.
        compare: train with both aggregators, and check the secure sums against plain sums of the same vectors.
        clip: a fixed bound of all elements of updates, in the model's units. None: each tensor has its own bound, which
            adapts to the clients' updates (`fl.aggregation.scales`).
        value_bits: bits to which each element of an update is rounded. None: 24, the precision of float32, or fewer if
            the sum over all clients does not fit 32 bits: a wider ring takes twice the time.
    """

    graph: GraphName = "auto"
    adversary: AdversaryName | None = None
    corrupt: float = 0.0
    threshold: int | None = None
    sample: int | None = None
    dropout: float = 0.0
    dropout_at: tuple[str, ...] = ("any",)
    dropout_model: DropoutModel = "independent"
    aggregator: AggregatorName = "secure"
    compare: bool = False
    clip: float | None = None
    value_bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("graph", "adversary"):
            object.__setattr__(self, name, name_of(getattr(self, name)))

    def problems(self) -> Iterable[str]:
        """Yield one message for each value that is out of range."""
        yield from name_problems(self.graph, self.adversary)
        if "consistency-check" in self.dropout_at and self.adversary in (None, Adversary.HONEST_BUT_CURIOUS.value):
            yield "with adversary honest-but-curious there is no consistency-check in which clients could drop out"
        if self.threshold is not None and self.threshold < 2:
            yield f"threshold must be at least 2, not {self.threshold}"
        for point in self.dropout_at:
            if point not in DROPOUT_POINTS:
                yield unknown("dropout point", point, DROPOUT_POINTS)
        for name, value, known in (
            ("dropout model", self.dropout_model, get_args(DropoutModel)),
            ("aggregator", self.aggregator, get_args(AggregatorName)),
        ):
            if value not in known:
                yield unknown(name, value, known)
        yield from not_fractions(dropout=self.dropout, corrupt=self.corrupt)
        if self.value_bits is not None and not MIN_VALUE_BITS <= self.value_bits <= MAX_VALUE_BITS:
            yield f"value_bits must be between {MIN_VALUE_BITS} and {MAX_VALUE_BITS}, not {self.value_bits}"
        if self.clip is not None and not MIN_CLIP <= self.clip <= MAX_CLIP:
            yield f"clip must be between {MIN_CLIP:g} and {MAX_CLIP:g}, not {self.clip}"
        if self.compare and self.aggregator != "secure":
            yield "compare runs the plain aggregator beside the secure one: set aggregator to secure"


_DEFAULT_DATA = DataSettings()
_DEFAULT_LOCAL = Local()
_DEFAULT_SERVER = ServerOptimization()
_DEFAULT_PROTOCOL = Protocol()
_DEFAULT_PERSONAL = Personal()
_DEFAULT_PRIVACY = Privacy()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The settings of a federated training run: six parts, and those of the whole run.

    None stands for a setting that was not given; the properties `model`, `loss`, `metrics`, `partition`, `sample`,
    `adversary` and `value_bits` then give the default. `graph` also says what ``auto`` stands for.

    Attributes:
        data: the data, the model, and the split of the data.
        local: the clients' training.
        server: the server's optimizer, which applies the mean update.
        protocol: the secure aggregation.
        personal: the clients' own models.
        privacy: the noise for differential privacy.
        rounds: the number of training rounds.
        seed: the seed of all randomness but keys and masks.
        engine: the way to train clients, one of `ENGINES`. With equal ``threads`` all engines give the same bits,
            except ``batched``, which rounds differently.
        threads: PyTorch threads per client; the last bits of results depend on it. None: one, but all cores for larger
            models (`fl.learning.cpu`) with the engine ``serial``, which trains one client at a time.

    Raises:
        ConfigError: a value is out of range; the message names every such value.
    """

    data: DataSettings = _DEFAULT_DATA
    local: Local = _DEFAULT_LOCAL
    server: ServerOptimization = _DEFAULT_SERVER
    protocol: Protocol = _DEFAULT_PROTOCOL
    personal: Personal = _DEFAULT_PERSONAL
    privacy: Privacy = _DEFAULT_PRIVACY
    rounds: int = 10
    seed: int = 0
    engine: str = "serial"
    threads: int | None = None

    def __post_init__(self) -> None:
        take_whole_numbers(self, "rounds", "seed", "threads")
        if problems := list(self._problems()):
            raise ConfigError("; ".join(problems))

    def _problems(self) -> Iterable[str]:
        if wrong := not_of_types(self, _PARTS) or not_whole(
            {"clients": self.data.clients, "rounds": self.rounds, "seed": self.seed},
            {"threads": self.threads} | {n: getattr(self.protocol, n) for n in ("sample", "threshold", "value_bits")},
        ):
            yield from wrong
            return
        for settings in (self.data, self.protocol, self.privacy):
            yield from not_numbers(settings) or settings.problems()
        yield from self.privacy.leaks(**self.options())
        yield from not_counts(rounds=self.rounds)
        if self.personal.method is not None and not self.data.holdout:
            yield "personal models are measured on examples that clients hold out: set holdout, such as 0.2"
        if self.protocol.aggregator == "secure" and self.data.clients == 1:
            yield "secure aggregation needs at least 2 clients: the sum of one update is that update"
        if self.data.clients >= 1 and not 1 <= self.sample <= self.data.clients:
            yield f"sample must be between 1 and the {self.data.clients} clients, not {self.sample}"
        if not 0 <= self.seed < 2**63:
            yield f"seed must be at least 0 and below 2^63, not {self.seed}"
        if self.engine not in ENGINES:
            yield unknown("engine", self.engine, ENGINES)
        if self.threads is not None and not 1 <= self.threads <= _MOST_THREADS:
            yield f"threads must be between 1 and {_MOST_THREADS}, not {self.threads}"

    @property
    def model(self) -> str:
        """The chosen model, or the usual one for the data set."""
        dataset = self.data.dataset
        own = self.data.model
        return _DEFAULT_MODEL.get(dataset, "2nn" if ":" in dataset else "cnn") if own is None else own

    @property
    def loss(self) -> str:
        """The chosen loss, or cross-entropy."""
        return self.data.loss or CROSS_ENTROPY

    @property
    def metrics(self) -> tuple[str, ...]:
        """The chosen metrics, or the usual ones for the loss."""
        usual = (ACCURACY,) if self.loss == CROSS_ENTROPY else ()
        return usual if self.data.metrics is None else self.data.metrics

    @property
    def partition(self) -> str:
        """The chosen partition, or the usual one for the data set."""
        return _DEFAULT_PARTITION.get(self.data.dataset, "iid") if self.data.partition is None else self.data.partition

    @property
    def sample(self) -> int:
        """The number of clients in a round."""
        return self.data.clients if self.protocol.sample is None else self.protocol.sample

    @property
    def value_bits(self) -> int:
        """The bits of each element of an update."""
        own = self.protocol.value_bits
        return max(MIN_VALUE_BITS, _value_bits_for(self.sample)) if own is None else own

    @property
    def adversary(self) -> Adversary:
        """The server that the rounds withstand."""
        own = self.protocol.adversary
        return Adversary.HONEST_BUT_CURIOUS if own is None else Adversary(own)

    @property
    def graph(self) -> GraphKind:
        """The graph of the rounds: the named one, or what ``auto`` stands for with this number of clients."""
        own = self.protocol
        if own.graph != "auto":
            return GraphKind(own.graph)
        if self.privacy.epsilon is not None:
            # On a sparse graph no client can check how many clients are in a sum, so its noise is not known.
            return GraphKind.COMPLETE
        return cheapest_graph(
            num_clients=self.sample,
            dropout=own.dropout,
            corrupt=own.corrupt,
            adversary=self.adversary,
            threshold=own.threshold,
        ).graph

    @property
    def dropout_rounds(self) -> tuple[Round, ...]:
        """The rounds of the protocol in which clients drop out."""
        chosen = {round_ for point in self.protocol.dropout_at for round_ in DROPOUT_POINTS[point]}
        return tuple(round_ for round_ in Round if round_ in chosen)

    @classmethod
    def of(cls, **options: Any) -> "RunConfig":
        """Return the config with these options, by their names in `SETTINGS`; None counts as not given.

        Raises:
            ConfigError: a value is out of range; the message names every such value.
        """
        if unknown := options.keys() - SETTINGS.keys():
            raise TypeError(f"a run has no options {', '.join(sorted(unknown))}")
        given: dict[str, dict[str, Any]] = {}
        for option, value in options.items():
            if value is not None:
                setting = SETTINGS[option]
                given.setdefault(setting.section, {})[setting.name] = tuple(value) if type(value) is list else value
        values, problems = given.pop("", {}), []
        for name, changes in given.items():
            try:
                values[name] = dataclasses.replace(_PARTS[name], **changes)
            except ConfigError as error:
                problems.append(str(error))
        try:
            config = cls(**values)
        except ConfigError as error:
            problems.append(str(error))
        if problems:
            raise ConfigError("; ".join(problems))
        return config

    def options(self) -> dict[str, Any]:
        """Return the value of each option in `SETTINGS`; None if it was not given."""
        return {
            option: getattr(getattr(self, setting.section) if setting.section else self, setting.name)
            for option, setting in SETTINGS.items()
        }

    def settled(self) -> "RunConfig":
        """Return the same config with its defaults filled in, so that later defaults do not change the run."""
        own = {name: getattr(self, name) for name in ("model", "loss", "metrics", "partition", "sample", "value_bits")}
        own |= {"graph": self.graph.value, "adversary": self.adversary.value, "server_learning_rate": self.server.rate}
        return self.of(**{**self.options(), **own})

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, by the names of their options."""
        values = self.settled().options()
        if callable(optimizer := values["optimizer"]):
            own = optimizer if isinstance(optimizer, LostOptimizer) else getattr(optimizer, "__name__", "optimizer")
            values["optimizer"] = f"{IN_PROGRAM}:{own}"
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunConfig":
        """Return the config that `to_json` wrote, in this version or an earlier one; ConfigError for other names."""
        values = completed(values, SETTINGS.keys(), _ADDED)
        if (optimizer := str(values["optimizer"])).startswith(f"{IN_PROGRAM}:"):
            values["optimizer"] = LostOptimizer(optimizer.removeprefix(f"{IN_PROGRAM}:"))
        # The first version wrote 0 if threads were not given.
        return cls.of(**{**values, "threads": values["threads"] or None})


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(RunConfig)}
_PARTS: dict[str, Any] = {name: default for name, default in _DEFAULTS.items() if dataclasses.is_dataclass(default)}


def _settings() -> dict[str, Setting]:
    found = {}
    for section, part in _PARTS.items():
        prefix = f"{section}_" if section in ("server", "personal") else ""
        for name, kind in get_type_hints(type(part)).items():
            option = "personalize" if (section, name) == ("personal", "method") else prefix + name
            found[option] = Setting(section, name, kind, getattr(part, name))
    others = get_type_hints(RunConfig).items()
    return found | {name: Setting("", name, kind, _DEFAULTS[name]) for name, kind in others if name not in _PARTS}


SETTINGS: dict[str, Setting] = _settings()
"""All settings of a run, by the names of their options, with ``_`` for ``-``."""
