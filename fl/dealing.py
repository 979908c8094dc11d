"""Whose examples are whose in a run: its partition of the data set."""

from __future__ import annotations

from fl.config import RunConfig
from fl.data import Dataset
from fl.data.partition import Indices, partition


def deal_out(config: RunConfig, dataset: Dataset, num_clients: int | None = None) -> list[Indices]:
    """The places of each client's training examples; ``num_clients`` in place of the config's.

    Raises:
        ConfigError: the data set cannot be dealt out so.
    """
    return partition(
        dataset,
        config.partition,
        config.clients if num_clients is None else num_clients,
        seed=config.seed,
        alpha=config.alpha,
        shards_per_client=config.shards_per_client,
    )
