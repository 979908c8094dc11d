"""The settings of a served run: those stored with the run, and those of each process."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl.aggregation.planning import SessionPlans
from fl.aggregation.private_session import PrivateFigures, PrivatePlans, require_figures
from fl.aggregation.session_policy import SessionPolicy
from fl.config.run_config import RunConfig
from fl.config.stored import Before, completed
from fl.errors import ConfigError
from fl.files import replace_file
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange
from fl.privacy.planner import plan_private
from secagg import Adversary, GraphKind
from transport import Deadlines
from transport.certificates.reading import Credentials
from transport.tcp import Address, Limits, Network, Plaintext

NETWORK_SETTINGS = "network.json"
"""The file of the settings in a run's folder."""

MIN_INPUTS = SessionPolicy().min_inputs
"""The fewest inputs of a sum that clients accept by default."""

_ADDED: Before = {
    "min_inputs": lambda values: min(MIN_INPUTS, values["min_clients"]),
    "over_select": lambda _: None,
    "graph": lambda _: GraphKind.COMPLETE.value,
    "threshold": lambda _: None,
}

_MOST_OVER_SELECTED = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """The settings of all rounds of a served run, beside its `RunConfig`; stored when the run starts.

    Attributes:
        min_clients: the number of enrolled clients that must be connected before a round begins; in private runs the
            others, as a fraction of all, are the expected dropouts of each round.
        adversary: the adversary that the rounds withstand.
        max_examples: a fixed bound on weights: a client with more examples counts as having this many. None: the bound
            adapts to the clients' weights.
        min_inputs: the fewest updates in a mean that clients accept, as in their ``secagg join --min-inputs``.
        over_select: a round asks this factor times the config's sample of the connected clients, and continues as soon
            as it has as many updates as the sample. None: all enrolled clients are asked, connected or not.
        graph, threshold: see `secagg.plan`.
    """

    min_clients: int
    adversary: Adversary
    max_examples: int | None
    min_inputs: int = MIN_INPUTS
    over_select: float | None = None
    graph: GraphKind = GraphKind.COMPLETE
    threshold: int | None = None

    def invited(self, config: RunConfig) -> int:
        """Return the number of clients that a round asks to take part, if enough are connected."""
        if self.over_select is None:
            return config.data.clients
        return invited_for(config.sample, self.over_select, config.data.clients)

    def of_run(self, config: RunConfig) -> RunConfig:
        """Return the config with these settings' adversary, graph and threshold; earlier versions had none there."""
        own = {name: getattr(self, name) for name in ("adversary", "graph", "threshold")}
        return dataclasses.replace(config, protocol=dataclasses.replace(config.protocol, **own))

    def plans(
        self,
        config: RunConfig,
        sizes: tuple[int, ...],
        figures: tuple[FigureRange, ...] = CLASSIFICATION_FIGURES,
    ) -> SessionPlans:
        """Return the plans of the run's rounds, which clients do not decline.

        The clients above the required number are the expected dropouts.

        Args:
            config: the run's config.
            sizes: the number of elements of each tensor of an update.
            figures: the ranges of the loss and of each metric.
        """
        return SessionPlans(
            sizes=sizes,
            figures=figures,
            value_bits=config.value_bits,
            dropout=config.protocol.dropout,
            corrupt=config.protocol.corrupt,
            adversary=self.adversary,
            graph=self.graph,
            threshold=self.threshold,
            min_inputs=self.min_inputs,
            goal=self.min_clients if self.over_select is None else config.sample,
        ).explained(self.invited(config))

    def private_plans(self, config: RunConfig, length: int, figures: PrivateFigures) -> PrivatePlans:
        """Return the plans of a private run's rounds, which clients do not decline.

        The clients above the required number are the expected dropouts, as a fraction of each round's.

        Args:
            config: the run's config, with an epsilon.
            length: the number of elements of an update.
            figures: the figures of the task that clients can report.

        Raises:
            PlanError: with every reason why there is no plan.
            ConfigError: the settings do not go with an epsilon.
        """
        if self.over_select not in (None, 1.0):
            raise ConfigError(
                "over-select does not go with epsilon: who is late would decide who is in the sum, and the accounting "
                "is for draws by chance alone; give --dropout for clients that may be late"
            )
        if self.max_examples is not None:
            raise ConfigError("max-examples does not go with epsilon: every client counts once")
        clients = config.data.clients
        spare = (clients - self.min_clients) / clients
        rate = 1.0 if self.over_select is None else config.sample / clients
        model: dict[str, Any] = {
            "dropout": spare + (1 - spare) * config.protocol.dropout,
            "corrupt": config.protocol.corrupt,
            "adversary": self.adversary,
            "threshold": self.threshold,
            "min_inputs": self.min_inputs,
        }
        if config.data.holdout:
            require_figures(figures)
        budget = config.privacy.budget(
            config.rounds,
            rate,
            figures=len(figures.of_updates),
            scores=figures.num_scores if config.data.holdout else 0,
        )
        private = plan_private(budget, num_clients=self.invited(config), length=length, graph=self.graph, **model)
        return PrivatePlans(private, model, config.privacy.ranges())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "adversary": self.adversary.value, "graph": self.graph.value}

    def save(self, path: Path) -> None:
        """Store the settings in a run's folder, before the first checkpoint; ConfigError if it is not writable."""
        try:
            replace_file(path / NETWORK_SETTINGS, (json.dumps(self.to_json(), indent=2) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"cannot write to {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> "NetworkSettings":
        """Return the stored settings; ConfigError if there are none."""
        try:
            values = completed(
                json.loads((path / NETWORK_SETTINGS).read_text()),
                [field.name for field in dataclasses.fields(cls)],
                _ADDED,
            )
            enums = {"adversary": Adversary(values["adversary"]), "graph": GraphKind(values["graph"])}
            return cls(**{**values, **enums})
        except FileNotFoundError:
            raise ConfigError(f"{path} holds no run of secagg serve: it has no {NETWORK_SETTINGS}") from None
        except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
            raise ConfigError(f"{path / NETWORK_SETTINGS} cannot be read: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The settings of one server process; they may change when a run is resumed.

    Attributes:
        address: the address to listen on.
        tls: the server's certificate and key, or `Plaintext` for no TLS.
        directory: in malicious mode, the folder with the certificates of all clients and the authority.
        give_up, retries, deadlines: see `ServingRules`.
        limits: the limits of connections.
        exclude, crl: files that list refused clients, see `transport.certificates.exclusion.Exclusions`.
        max_failed_rounds: the server stops after this many rounds in a row without a result. None: it never stops.
        watch: the address of the status page (`fl.watch`). None: no page.
        watch_hosts: the host names that the page accepts, see `fl.watch.serve_watch`.
        skip: the number of rounds to skip first, without a result.
        proxies: the networks of proxies, whose connections begin with a header of the PROXY protocol.
        journal: the connection string of the PostgreSQL database with the journals; None: they are in the run's folder.
        journal_run: the name of the run in the database. None: the name of its folder.
        standby: wait while another process serves the run; else it is an error.
        fronts: number of fronts, which have the connections with clients. 0: this process has them.
        ray: the address of the Ray cluster for fronts. None: on this machine.
    """

    address: Address
    tls: Credentials | Plaintext
    directory: Path | None
    give_up: float | None
    retries: int
    deadlines: Deadlines
    limits: Limits = field(default_factory=Limits)
    exclude: Path | None = None
    crl: Path | None = None
    max_failed_rounds: int | None = None
    watch: Address | None = None
    watch_hosts: tuple[str, ...] = ()
    skip: int = 0
    proxies: tuple[Network, ...] = ()
    journal: str | None = field(default=None, repr=False)
    journal_run: str | None = None
    standby: bool = False
    fronts: int = 0
    ray: str | None = None


def invited_for(sample: int, over_select: float, clients: int) -> int:
    """Return the number of clients to ask so that ``sample`` answer; ConfigError if the factor is out of range."""
    if not 1 <= over_select <= _MOST_OVER_SELECTED:
        raise ConfigError(f"over-select must be between 1 and {_MOST_OVER_SELECTED:g}, not {over_select}")
    # 100 * 1.1 is 110.00000000000001, and must count as 110.
    return min(clients, math.ceil(round(sample * over_select, 6)))


def settle(
    config: RunConfig,
    *,
    min_clients: int | None,
    max_examples: int | None,
    min_inputs: int = MIN_INPUTS,
    over_select: float | None = None,
) -> NetworkSettings:
    """Return the settings of a new run; by default a round waits for two thirds of the clients, plus one.

    The graph ``auto`` stands for the cheapest one with the number of clients that a round asks.

    Raises:
        ConfigError: a number is out of range.
    """
    is_private = config.privacy.epsilon is not None
    # A private round draws from all connected clients, so that most should be there.
    is_sampled = over_select is not None and not is_private
    wanted, of = (config.sample, "sampled clients") if is_sampled else (config.data.clients, "clients")
    fewest = 2 * wanted // 3 + 1 if min_clients is None else min_clients
    if not 2 <= fewest <= wanted:
        raise ConfigError(f"min-clients must be between 2 and the {wanted} {of}, not {fewest}")
    if min_inputs < 2:
        raise ConfigError(f"min-inputs must be at least 2, not {min_inputs}")
    settings = NetworkSettings(
        min_clients=fewest,
        adversary=config.adversary,
        max_examples=max_examples,
        min_inputs=min_inputs,
        over_select=over_select,
        threshold=config.protocol.threshold,
    )
    invited, named = settings.invited(config), config.protocol.graph
    if is_private and named == "auto":
        named = GraphKind.COMPLETE.value
    chosen = settings.plans(config, (1,)).cheapest(invited).graph if named == "auto" else GraphKind(named)
    return dataclasses.replace(settings, graph=chosen)


def check_resumed(config: RunConfig, rounds: int | None, options: ServeOptions) -> None:
    """Raise ConfigError if a private run would go on with other noise or another ledger than it was planned with."""
    if rounds not in (None, config.rounds):
        raise ConfigError(
            f"the noise of this private run is for {config.rounds} rounds: it cannot have {rounds}; leave out "
            "rounds, or start a new run"
        )
    if options.skip:
        raise ConfigError(
            "skip is for a run that was restored from an older copy, whose ledger does not know what the rounds since "
            "have spent: a private run cannot go on from there"
        )
