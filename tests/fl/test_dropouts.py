"""Dropouts: as many as planned, and under `slow` the slow clients more often."""

from __future__ import annotations

import numpy as np

from fl.runs.sampling import client_slowness, dropout_schedule
from secagg import Round
from tests.fl.runs import tiny_config

ROUNDS = 300


def counts(dropout_model: str) -> np.ndarray:
    config = tiny_config(clients=40, sample=20, dropout=0.2, dropout_model=dropout_model)
    gone = np.zeros(40)
    rng = np.random.default_rng(0)
    for number in range(ROUNDS):
        sampled = tuple(sorted(rng.choice(40, 20, replace=False).tolist()))
        faults = dropout_schedule(config, sampled, number).faults
        assert len(faults) == 4
        assert all(client_id in sampled for client_id, _, _ in faults)
        for client_id, _, _ in faults:
            gone[client_id] += 1
    return gone


def test_independent_dropouts_spare_nobody_and_slow_ones_follow_the_speed() -> None:
    slowness = client_slowness(40, tiny_config().seed)
    independent, slow = counts("independent"), counts("slow")
    # Each client is expected 30 times, with a deviation of 5: none is 4 of them away.
    assert independent.min() >= 10
    assert independent.max() <= 50
    assert np.corrcoef(np.argsort(np.argsort(slowness)), np.argsort(np.argsort(slow)))[0, 1] > 0.8
    assert slow[np.argmax(slowness)] > 3 * slow[np.argmin(slowness)]


def test_a_schedule_follows_from_the_seed_the_round_and_the_session() -> None:
    config = tiny_config(clients=40, dropout=0.2, dropout_model="slow")
    ids = tuple(range(40))
    first = dropout_schedule(config, ids, 1)
    assert dropout_schedule(config, ids, 1) == first
    assert dropout_schedule(config, ids, 2) != first
    assert dropout_schedule(config, ids, 1, 5) != first


def test_only_the_requested_rounds_lose_clients() -> None:
    config = tiny_config(clients=40, dropout=0.5, dropout_at=("share-keys",), dropout_model="slow")
    faults = dropout_schedule(config, tuple(range(40)), 1).faults
    assert {round_ for _, round_, _ in faults} == {Round.SHARE_KEYS}
