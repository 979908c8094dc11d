"""How a run is served: what is stored with it, and what each process is told anew."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl.aggregation.planning import SessionPlans
from fl.aggregation.session_policy import SessionPolicy
from fl.config.run_config import Before, RunConfig, completed
from fl.errors import ConfigError
from fl.files import replace_file
from secagg import Adversary, GraphKind
from transport import Deadlines
from transport.certificates.reading import Credentials
from transport.tcp import Address, Limits, Network, Plaintext

_SETTINGS = "network.json"

MIN_INPUTS = SessionPolicy().min_inputs
"""What clients ask for by default: the fewest inputs of a sum."""

_ADDED: Before = {
    "min_inputs": lambda values: min(MIN_INPUTS, values["min_clients"]),
    "over_select": lambda _: None,
    "graph": lambda _: GraphKind.COMPLETE.value,
    "threshold": lambda _: None,
}

_MOST_OVER_SELECTED = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """What a run's rounds have in common, beside its `RunConfig`; stored when it starts.

    Attributes:
        min_clients: so many of the enrolled clients are awaited before a round begins; the others may be missing.
        adversary: whom rounds are safe against.
        max_examples: a fixed bound on weights: a client with more examples counts as having this many. None: the bound
            follows the clients' weights.
        min_inputs: the fewest updates that clients agree to a mean of, as in their ``secagg join --min-inputs``.
        over_select: a round asks the config's sample times this many of the clients that are there, and goes on with as
            many updates as the sample. None: everybody who is enrolled is asked, there or not.
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
        """How many clients are asked to take part in a round, where as many are there."""
        if self.over_select is None:
            return config.data.clients
        return invited_for(config.sample, self.over_select, config.data.clients)

    def plans(self, config: RunConfig, sizes: tuple[int, ...]) -> SessionPlans:
        """The plans of the run's rounds: such that clients do not decline them.

        Those who need not be there are those who are expected to vanish.

        Args:
            config: the run's.
            sizes: elements of each tensor of an update.
        """
        return SessionPlans(
            sizes=sizes,
            value_bits=config.value_bits,
            dropout=config.protocol.dropout,
            corrupt=config.protocol.corrupt,
            adversary=self.adversary,
            graph=self.graph,
            threshold=self.threshold,
            min_inputs=self.min_inputs,
            goal=self.min_clients if self.over_select is None else config.sample,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "adversary": self.adversary.value, "graph": self.graph.value}

    def save(self, path: Path) -> None:
        """Store it in a run's folder, before the first checkpoint. ConfigError if that cannot be written to."""
        try:
            replace_file(path / _SETTINGS, (json.dumps(self.to_json(), indent=2) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"cannot write to {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> "NetworkSettings":
        """What was stored. ConfigError if nothing was."""
        try:
            values = completed(
                json.loads((path / _SETTINGS).read_text()), [field.name for field in dataclasses.fields(cls)], _ADDED
            )
            enums = {"adversary": Adversary(values["adversary"]), "graph": GraphKind(values["graph"])}
            return cls(**{**values, **enums})
        except FileNotFoundError:
            raise ConfigError(f"{path} holds no run of secagg serve: it has no {_SETTINGS}") from None
        except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
            raise ConfigError(f"{path / _SETTINGS} cannot be read: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How this process serves; may be others when a run is resumed.

    Attributes:
        address: where to listen.
        tls: the server's certificate, or that there is to be none.
        directory: in malicious mode, the folder with everybody's certificates and the authority's.
        give_up, retries, deadlines: see `ServingRules`.
        limits: what connections may take.
        exclude, crl: who is shut out, see `transport.certificates.exclusion.Exclusions`.
        max_failed_rounds: the server ends after this many rounds in a row without a result; None: it goes on.
        watch: where to show the training, `fl.watch`, if anywhere.
        watch_hosts: names by which that may be called, see `fl.watch.serve_watch`.
        skip: so many rounds are left out first, without a result.
        proxies: whose connections begin with a header of the PROXY protocol.
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


def invited_for(sample: int, over_select: float, clients: int) -> int:
    """How many of the clients are asked where ``sample`` of them are wanted. ConfigError for an impossible factor."""
    if not 1 <= over_select <= _MOST_OVER_SELECTED:
        raise ConfigError(f"over-select must be between 1 and {_MOST_OVER_SELECTED:g}, not {over_select}")
    # 100 * 1.1 is 110.00000000000001: factors are meant as written.
    return min(clients, math.ceil(round(sample * over_select, 6)))


def settle(
    config: RunConfig,
    *,
    min_clients: int | None,
    adversary: Adversary,
    max_examples: int | None,
    min_inputs: int = MIN_INPUTS,
    over_select: float | None = None,
    graph: GraphKind = GraphKind.COMPLETE,
    threshold: int | None = None,
) -> NetworkSettings:
    """The settings of a new run; by default a round waits for two thirds of the clients and one.

    Raises:
        ConfigError: a number out of range.
    """
    wanted, of = (config.data.clients, "clients") if over_select is None else (config.sample, "sampled clients")
    fewest = 2 * wanted // 3 + 1 if min_clients is None else min_clients
    if not 2 <= fewest <= wanted:
        raise ConfigError(f"min-clients must be between 2 and the {wanted} {of}, not {fewest}")
    if min_inputs < 2:
        raise ConfigError(f"min-inputs must be at least 2, not {min_inputs}")
    settings = NetworkSettings(
        min_clients=fewest,
        adversary=adversary,
        max_examples=max_examples,
        min_inputs=min_inputs,
        over_select=over_select,
        graph=graph,
        threshold=threshold,
    )
    settings.invited(config)
    return settings
