"""How a run is served: what is stored with it, and what each process is told anew."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import secagg
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.session_policy import SessionPolicy
from fl.config.run_config import Before, RunConfig, completed
from fl.errors import ConfigError
from fl.files import replace_file
from secagg import Adversary
from transport import Deadlines
from transport.certificates.reading import Credentials
from transport.tcp import Address, Limits, Network, Plaintext

_SETTINGS = "network.json"

MIN_INPUTS = SessionPolicy().min_inputs
"""What clients ask for by default: the fewest inputs of a sum."""

_ADDED: Before = {"min_inputs": lambda values: min(MIN_INPUTS, values["min_clients"])}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """What a run's rounds have in common, beside its `RunConfig`; stored when it starts.

    Attributes:
        min_clients: so many of the enrolled clients are awaited before a round begins; the others may be missing.
        adversary: whom rounds are safe against.
        max_examples: a fixed bound on weights: a client with more examples counts as having this many. None: the bound
            follows the clients' weights.
        min_inputs: the fewest updates that clients agree to a mean of, as in their ``secagg join --min-inputs``.
    """

    min_clients: int
    adversary: Adversary
    max_examples: int | None
    min_inputs: int = MIN_INPUTS

    def plan(self, config: RunConfig, sizes: tuple[int, ...]) -> secagg.Plan:
        """The plan of the run's rounds. PlanError if it cannot be, or clients would decline it.

        Those who need not be there are those who are expected to vanish.

        Args:
            config: the run's.
            sizes: elements of each tensor of an update.
        """
        return secagg.plan(
            num_clients=config.data.clients,
            vector_length=UpdateEncoding.for_plan(sizes, config.data.clients, config.value_bits).vector_length,
            value_bits=config.value_bits,
            dropout=(config.data.clients - self.min_clients) / config.data.clients,
            corrupt=config.protocol.corrupt,
            adversary=self.adversary,
            min_inputs=self.min_inputs,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "adversary": self.adversary.value}

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
            return cls(**{**values, "adversary": Adversary(values["adversary"])})
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
        watch: where to show the training, `fl.watch`, if anywhere.
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
    watch: Address | None = None
    skip: int = 0
    proxies: tuple[Network, ...] = ()


def settle(
    config: RunConfig,
    *,
    min_clients: int | None,
    adversary: Adversary,
    max_examples: int | None,
    min_inputs: int = MIN_INPUTS,
) -> NetworkSettings:
    """The settings of a new run; by default a round waits for two thirds of the clients and one.

    Raises:
        ConfigError: a number out of range.
    """
    fewest = 2 * config.data.clients // 3 + 1 if min_clients is None else min_clients
    if not 2 <= fewest <= config.data.clients:
        raise ConfigError(f"min-clients must be between 2 and the {config.data.clients} clients, not {fewest}")
    if min_inputs < 2:
        raise ConfigError(f"min-inputs must be at least 2, not {min_inputs}")
    return NetworkSettings(min_clients=fewest, adversary=adversary, max_examples=max_examples, min_inputs=min_inputs)
