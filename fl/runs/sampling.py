"""Whose examples are whose in a run, and which clients vanish in a simulated round."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fl.config.run_config import RunConfig
from fl.config.seeds import FAULTS_SEED, SPEED_SEED, derived_seed
from fl.data import Dataset
from fl.data.partition import Indices, partition
from secagg import ClientId
from transport import FaultSchedule


def deal_out(config: RunConfig, dataset: Dataset, num_clients: int | None = None) -> list[Indices]:
    """The places of each client's training examples; ``num_clients`` in place of the config's.

    Raises:
        ConfigError: the data set cannot be dealt out so.
    """
    return partition(
        dataset,
        config.partition,
        config.data.clients if num_clients is None else num_clients,
        seed=config.seed,
        alpha=config.data.alpha,
        shards_per_client=config.data.shards_per_client,
    )


_SPREAD = 1.0
"""Standard deviation of the logarithm of clients' speeds: one in six is 2.7 times slower than the median, or more."""


def dropout_schedule(config: RunConfig, sampled: tuple[ClientId, ...], number: int, *path: int) -> FaultSchedule:
    """The faults of the round of that number; ``path`` sets further sessions of the same round apart."""
    slowness = None
    if config.protocol.dropout_model == "slow":
        slowness = client_slowness(config.data.clients, config.seed)[np.array(sorted(sampled))]
    return FaultSchedule.dropouts(
        sampled,
        config.protocol.dropout,
        seed=derived_seed(config.seed, FAULTS_SEED, number, *path),
        rounds=config.dropout_rounds,
        weights=slowness,
    )


def client_slowness(num_clients: int, seed: int) -> npt.NDArray[np.float64]:
    """How long each client takes for a unit of work, log-normal with median 1, float64, shape (num_clients,).

    Devices' speeds in federated learning are commonly drawn so (FedScale, Lai et al., ICML 2022, measured such a tail).
    A client's chance to be among a round's dropouts is proportional to it.
    """
    rng = np.random.default_rng(derived_seed(seed, SPEED_SEED))
    return rng.lognormal(0.0, _SPREAD, num_clients)
