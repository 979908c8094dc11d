"""What a run's seed is for: every use of it has a stream of its own."""

import numpy as np

SAMPLING_SEED, FAULTS_SEED, TRAINING_SEED, NETWORK_SEED, HOLDOUT_SEED, EVALUATION_SEED, SPEED_SEED = range(7)
PERSONALIZATION_SEED = 7


def derived_seed(seed: int, purpose: int, *path: int) -> int:
    """The seed of one use of the run's seed; ``path`` says which round's and client's."""
    return int(np.random.SeedSequence((seed, purpose, *path)).generate_state(1, np.uint64)[0]) >> 1
