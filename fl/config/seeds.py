"""Separate random streams for each use of a run's seed."""

import numpy as np

SAMPLING_SEED, FAULTS_SEED, TRAINING_SEED, NETWORK_SEED, HOLDOUT_SEED, EVALUATION_SEED, SPEED_SEED = range(7)
PERSONALIZATION_SEED = 7


def derived_seed(seed: int, purpose: int, *path: int) -> int:
    """Return the seed for one purpose; ``path`` gives the round, the client or both."""
    return int(np.random.SeedSequence((seed, purpose, *path)).generate_state(1, np.uint64)[0]) >> 1
