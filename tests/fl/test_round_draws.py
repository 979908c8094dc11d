"""Random draws of a run: they follow from the seed, and each round has its own sample, rounding and dropouts."""

from __future__ import annotations

from collections import Counter

import pytest

from fl.errors import ConfigError
from fl.runs.rounds import FederatedRun
from secagg import Round
from tests.fl.runs import state_bytes, tiny_config, untimed
from tests.fl.test_rounds import DATASET, listen, make_run, run_rounds
from transport import Direction
from transport.faults import ROUNDS_OF_EVERY_SESSION

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["logistic", "small-cnn"])
@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_a_seeded_run_repeats_bit_for_bit(aggregator: str, model: str) -> None:
    options = {"model": model, "dropout": 0.34, "sample": 5, "rounds": 3}
    first, again = (make_run(aggregator, **options) for _ in range(2))
    records = [[untimed(record) for record in run_rounds(run, 3)] for run in (first, again)]
    assert records[0] == records[1]
    assert state_bytes(first.model) == state_bytes(again.model)


@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_another_seed_gives_another_run(aggregator: str) -> None:
    first, other = (make_run(aggregator, seed=seed) for seed in (1, 2))
    assert run_rounds(first, 1)[0].loss != run_rounds(other, 1)[0].loss


def test_a_round_samples_anew_from_all_clients() -> None:
    config = {"clients": 12, "sample": 5, "seed": 3}
    requests = listen(make_run("plain", **config), 60)
    assert [request.client_ids for request in requests] == [
        request.client_ids for request in listen(make_run("plain", **config), 60)
    ]
    times: Counter[int] = Counter()
    for request in requests:
        ids = request.client_ids
        assert len(set(ids)) == 5
        assert list(ids) == sorted(ids)
        assert set(ids) <= set(range(12))
        times.update(ids)
    assert len({request.client_ids for request in requests}) > 50
    # 25 times each on average, with a deviation of 3.8.
    assert set(times) == set(range(12))
    assert min(times.values()) > 10
    assert max(times.values()) < 40


def test_every_round_is_rounded_by_its_own_draws() -> None:
    first, other = (listen(make_run(seed=seed), 5) for seed in (11, 12))
    assert len({request.seed for request in first + other}) == 10


def test_a_round_has_the_dropouts_that_were_asked_for() -> None:
    for request in listen(make_run("plain", clients=12, sample=10, dropout=0.3, dropout_at=("share-keys",)), 5):
        assert len(request.faults.faults) == 3
        for client_id, round_, direction in request.faults.faults:
            assert client_id in request.client_ids
            assert (round_, direction) == (Round.SHARE_KEYS, Direction.UP)
    everywhere = listen(make_run("plain", clients=12, dropout=0.3), 20)
    assert {round_ for request in everywhere for _, round_, _ in request.faults.faults} == set(ROUNDS_OF_EVERY_SESSION)
    assert len({tuple(request.faults.faults) for request in everywhere}) > 10


@pytest.mark.parametrize("seed", [2**32, 2**63, 2**64, 10**30])
def test_any_seed_that_a_config_takes_can_be_run(seed: int) -> None:
    try:
        config = tiny_config(seed=seed)
    except ConfigError:
        return
    FederatedRun(config, DATASET, "secure").run_round()
