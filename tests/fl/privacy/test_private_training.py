"""Private runs: noisy means through real sessions, a ledger that outlives the run, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fl
from fl.aggregation.api import RoundRequest
from fl.aggregation.encoding import ClientUpdate
from fl.aggregation.private import PrivateAggregator
from fl.config.run_config import RunConfig
from fl.data import Dataset, load_dataset
from fl.errors import ConfigError
from fl.federated_training import FederatedTraining
from fl.privacy.budget import Budget
from fl.privacy.ledger import EpsilonSpentError, Ledger
from fl.privacy.planner import plan_private
from fl.runs.sampling import poisson_sample
from secagg import Adversary, ClientId, PlanError, Round
from tests.fl.runs import invoke
from transport import Direction, Fault, FaultSchedule

pytestmark = pytest.mark.slow

LENGTH = 500
MODEL = {"dropout": 0.2, "corrupt": 0.0, "adversary": Adversary.HONEST_BUT_CURIOUS, "threshold": None}
BUDGET = Budget(epsilon=30, delta=1e-3, rounds=3, clip=1.0, sampling_rate=0.5)


def aggregator(tmp_path: Path | None = None, epsilon: float = 30) -> PrivateAggregator:
    plan = plan_private(BUDGET, num_clients=20, length=LENGTH, **MODEL)
    ledger = Ledger(None, epsilon, 1e-3)
    if tmp_path is not None:
        ledger = Ledger.create(tmp_path / "privacy.json", epsilon=epsilon, delta=1e-3)
    return PrivateAggregator(plan, ledger, model=MODEL)


def update_of(client_id: ClientId) -> ClientUpdate:
    delta = np.random.default_rng(client_id).normal(size=LENGTH).astype(np.float32) * 0.03
    return ClientUpdate(delta=delta, num_examples=10**6 * client_id, loss_sum=5.0)


def request(
    count: int,
    number: int = 1,
    train: Callable[[ClientId], ClientUpdate] = update_of,
    faults: FaultSchedule | None = None,
) -> RoundRequest:
    return RoundRequest(
        client_ids=tuple(range(count)),
        train=train,
        context=b"model and round %d" % number,
        faults=faults or FaultSchedule(),
        seed=1,
        number=number,
    )


@pytest.mark.parametrize("count", [14, 20, 27])
def test_the_mean_has_the_planned_noise_whatever_the_rounds_size(count: int) -> None:
    private = aggregator()
    faults = FaultSchedule({(3, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH})
    result = private.aggregate(request(count, faults=faults))
    assert result.aggregate is not None
    assert set(result.included) == set(range(count)) - {3}
    # Every client counts once, whatever its number of examples.
    mean = np.mean([update_of(i).delta for i in result.included], axis=0)
    error = (result.aggregate.mean_delta - mean) * len(result.included)
    fewest = private.private.release.honest * private.private.mechanism.variance
    honest = next(iter(private.ledger.charges)).release.honest
    assert honest == count - count // 5
    steps = fewest * len(result.included) / honest + len(result.included) / 6
    assert np.mean(np.square(error / private.private.mechanism.granularity)) / steps == pytest.approx(
        1, abs=6.2 * math.sqrt(2 / LENGTH)
    )
    # Nothing else is told.
    assert result.aggregate.num_examples == 0
    assert math.isnan(result.aggregate.loss)
    assert result.aggregate.ranges is None


def test_two_rounds_of_one_update_have_different_noise() -> None:
    private = aggregator()
    first, second = (private.aggregate(request(20)).aggregate for _ in range(2))
    assert np.count_nonzero(first.mean_delta != second.mean_delta) > 0.9 * LENGTH


def test_a_round_is_charged_before_a_client_trains(tmp_path: Path) -> None:
    private = aggregator(tmp_path)
    seen = []

    def train(client_id: ClientId) -> ClientUpdate:
        seen.append(Ledger.load(tmp_path / "privacy.json").spent)
        return update_of(client_id)

    result = private.aggregate(request(20, train=train))
    assert seen == [result.epsilon] * 20
    assert 0 < result.epsilon < 30


def test_an_aborted_round_costs_as_much(tmp_path: Path) -> None:
    private = aggregator(tmp_path)
    faults = FaultSchedule({(i, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH for i in range(5)})
    aborted = private.aggregate(request(20, faults=faults))
    assert aborted.aggregate is None
    assert "TOO_FEW_CLIENTS" in str(aborted.aborted) or "few" in str(aborted.aborted)
    other = aggregator()
    assert aborted.epsilon == other.aggregate(request(20)).epsilon


def test_a_round_that_is_too_small_does_not_begin() -> None:
    private = aggregator()
    result = private.aggregate(request(1))
    assert result.aggregate is None
    assert "too few clients were sampled" in str(result.aborted)
    assert (result.epsilon, private.ledger.charges) == (0.0, ())


def test_no_client_trains_once_the_budget_is_spent() -> None:
    private = aggregator()
    for number in (1, 2, 3):
        private.aggregate(request(20, number))
    trained: list[ClientId] = []
    with pytest.raises(EpsilonSpentError, match="round 4"):
        private.aggregate(request(20, 4, train=lambda client_id: trained.append(client_id) or update_of(client_id)))
    assert trained == []


def test_noise_comes_from_the_systems_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []

    def urandom(size: int) -> bytes:
        keys.append(bytes([len(keys)]) * size)
        return keys[-1]

    monkeypatch.setattr("fl.aggregation.private.os.urandom", urandom)
    aggregator().aggregate(request(20))
    assert len(set(keys)) == len(keys) >= 20


def test_poisson_samples_vary_and_take_all_at_rate_one() -> None:
    assert poisson_sample(7, 1.0) == tuple(range(7))
    sizes = [len(poisson_sample(10_000, 0.1)) for _ in range(20)]
    assert len(set(sizes)) > 1
    assert abs(sum(sizes) - 20_000) < 7 * math.sqrt(18_000)
    assert poisson_sample(10_000, 0.1) != poisson_sample(10_000, 0.1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


CONFIG = RunConfig.of(
    dataset="digits", model="logistic", clients=30, sample=15, rounds=4, epsilon=50.0, delta=1e-3, dropout=0.1, epochs=1
)


def test_rounds_without_clients_cost_nothing_and_the_run_goes_on(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = iter([(), (3,), tuple(range(15)), tuple(range(12))])
    monkeypatch.setattr("fl.runs.rounds.poisson_sample", lambda *_: next(samples))
    with FederatedTraining(CONFIG, digits) as training:
        records = list(training)
    assert [record.aborted is None for record in records] == [False, False, True, True]
    assert [record.epsilon for record in records[:2]] == [0.0, 0.0]
    assert 0 < (records[2].epsilon or 0) < (records[3].epsilon or 0)


@pytest.mark.slow
def test_a_private_run_goes_on_with_its_ledger(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "run"
    training = FederatedTraining(CONFIG, digits)
    training.keep_in(path)
    with training:
        first = next(iter(training))
    stored = Ledger.load(path / "privacy.json")
    assert first.epsilon == stored.spent > 0
    assert (stored.epsilon, stored.delta) == (50, 1e-3)
    # A crash in the next round leaves its charge, and not its record.
    stored.charge(2, stored.charges[0].release)
    going_on = FederatedTraining(CONFIG, digits)
    going_on.resume_in(path)
    # The attempt that was cut off took the place of the last round.
    with going_on, pytest.raises(EpsilonSpentError):
        going_on.train(progress=False)
    records = going_on.records
    assert [record.round for record in records] == [1, 2, 3]
    assert [charge.round for charge in Ledger.load(path / "privacy.json").charges] == [1, 2, 2, 3]
    spent = [record.epsilon or 0.0 for record in records]
    assert spent == sorted(spent)
    assert spent[-1] <= 50 * (1 + 1e-12)


def test_a_private_run_without_its_ledger_does_not_go_on(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "run"
    FederatedTraining(CONFIG, digits).keep_in(path)
    (path / "privacy.json").unlink()
    with pytest.raises(ConfigError, match="nobody knows what was spent"):
        FederatedTraining(CONFIG, digits).resume_in(path)


def test_a_private_run_keeps_its_number_of_rounds(tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "run"
    FederatedTraining(CONFIG, digits).keep_in(path)
    with pytest.raises(ConfigError, match="for 4 rounds: it cannot have 9"):
        FederatedTraining(replace(CONFIG, rounds=9), digits).resume_in(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epsilon": 3.0}, "epsilon needs a delta"),
        ({"delta": 1e-5}, "give epsilon too"),
        ({"epsilon": 0.001, "delta": 1e-5}, "out of reach"),
        ({"epsilon": 3.0, "delta": 1e-5, "noise": "laplace"}, "unknown noise 'laplace'"),
        ({"epsilon": 3.0, "delta": 1e-5, "aggregator": "plain"}, "only the secure aggregator"),
        ({"epsilon": 3.0, "delta": 1e-5, "compare": True}, "would have no noise"),
        ({"epsilon": 3.0, "delta": 1e-5, "holdout": 0.2, "figures_cost": 0.0}, "or holdout to 0"),
        ({"epsilon": 3.0, "delta": 1e-5, "holdout": 0.2, "personalize": "head"}, "scores of personal models"),
        ({"epsilon": 3.0, "delta": 1e-5, "clip_quantile": 1.5}, "clip_quantile must be between 0 and 1"),
        ({"epsilon": 3.0, "delta": 1e-5, "clip_rate": 0.0}, "clip_rate must be above 0"),
        ({"epsilon": 3.0, "delta": 1e-5, "clip_rate": 0.5}, "give clip_quantile too, or leave out clip_rate"),
        ({"epsilon": 3.0, "delta": 1e-5, "figure_ranges": {"mae": 3}}, "figure_ranges has 'mae=3', but must have NAME"),
        ({"l2_clip": 0.5, "exact_noise": True}, "only private runs have l2_clip, exact_noise: give epsilon too"),
        ({"epsilon": 3.0, "delta": 1e-5, "clip_quantile": 0.5, "figures_cost": 0.0}, "clip_quantile needs figures"),
        ({"epsilon": 3.0, "delta": 1e-5, "figures_cost": 2.0}, "figures' cost is 2.0"),
        ({"epsilon": 3.0, "delta": 1e-5, "figure_ranges": ("mae=3",)}, "must have NAME=LOW:HIGH"),
        ({"epsilon": 3.0, "delta": 1e-5, "figure_ranges": ("mae=3:inf",)}, "must rise"),
        ({"clip_quantile": 0.5}, "give epsilon too"),
        ({"epsilon": 3.0, "delta": 1e-5, "clip": 0.1}, "l2_clip takes the place"),
    ],
)
def test_settings_that_would_leak_or_mean_nothing_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RunConfig.of(**options)


def test_a_stored_private_run_goes_on_on_the_complete_graph() -> None:
    # Without noise a sparse graph would be the cheaper one, and a stored run names the graph that was chosen.
    options = {"clients": 400, "sample": 300}
    assert RunConfig.of(**options).settled().protocol.graph == "sparse"
    stored = RunConfig.from_json(RunConfig.of(**options, epsilon=8.0, delta=1e-5).to_json())
    assert stored.protocol.graph == stored.graph.value == "complete"
    with pytest.raises(PlanError, match="no client can check"):
        plan_private(BUDGET, num_clients=300, length=LENGTH, graph=RunConfig.of(**options).graph)


def test_a_budget_that_the_ring_cannot_keep_ends_before_training(digits: Dataset) -> None:
    config = replace(CONFIG, privacy=replace(CONFIG.privacy, ring_bits=4))
    with pytest.raises(PlanError, match="too narrow"):
        FederatedTraining(config, digits)


def test_the_command_trains_privately_and_says_what_it_spent(tmp_path: Path) -> None:
    options = ("--clients", 30, "--sample", 15, "--rounds", 2, "--epsilon", 60, "--delta", 1e-3, "--l2-clip", 0.5)
    result = invoke("train", "--json", "--model", "logistic", "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert 0 < summary["epsilon"] <= 60 * (1 + 1e-12)
    assert summary["delta"] == 1e-3
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epsilon"] for line in lines] == sorted(line["epsilon"] for line in lines)
    assert "epsilon 60 at delta 0.001 after 2 rounds" in result.stderr
    # The report's command repeats the run.
    assert invoke("report", tmp_path / "run").exit_code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "--epsilon 60.0 --delta 0.001 --l2-clip 0.5" in page


def test_a_program_trains_privately() -> None:
    clients = [(np.random.default_rng(i).normal(size=(8, 5)).astype(np.float32), np.arange(8) % 3) for i in range(12)]
    privacy = fl.Privacy(epsilon=40.0, delta=1e-3, l2_clip=0.3)
    with fl.federated("logistic", clients, rounds=2, sample=10, privacy=privacy) as run:
        history = run.train(progress=False)
    assert 0 < history[-1].epsilon <= 40 * (1 + 1e-12)
