"""The split of the data among clients, and the dropouts of simulated rounds."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from fl.config.run_config import RunConfig
from fl.config.seeds import FAULTS_SEED, SPEED_SEED, derived_seed
from fl.data import Dataset
from fl.data.partition import Indices, partition
from secagg import ClientId
from transport import FaultSchedule


def deal_out(config: RunConfig, dataset: Dataset, num_clients: int | None = None) -> list[Indices]:
    """Return the indices of each client's training examples; ``num_clients`` replaces the config's number.

    Raises:
        ConfigError: the data set cannot be split in this way.
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
    """Return the faults of round ``number``; ``path`` tells further sessions of the same round apart."""
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


def poisson_sample(num_clients: int, rate: float) -> tuple[ClientId, ...]:
    """Return the clients of a private round: each independently with probability ``rate``.

    The gain of sampling is for those who cannot know the sample, so it comes from the system, not from a run's seed.
    """
    words = np.frombuffer(os.urandom(8 * num_clients), dtype="<u8")
    return tuple(np.flatnonzero(words < round(rate * 2**64)).tolist()) if rate < 1 else tuple(range(num_clients))


def client_slowness(num_clients: int, seed: int) -> npt.NDArray[np.float64]:
    """Return each client's time for a unit of work, log-normal with median 1, float64, shape (num_clients,).

    This is a common model of devices' speeds in federated learning (FedScale, Lai et al., ICML 2022, measured such a
    tail). A client's probability to drop out of a round is proportional to its time.
    """
    rng = np.random.default_rng(derived_seed(seed, SPEED_SEED))
    return rng.lognormal(0.0, _SPREAD, num_clients)
