"""Three thousand private users: the arms without masks have the sums of sessions, and the noise that they claim."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fl.aggregation import private
from fl.aggregation.api import RoundRequest
from fl.aggregation.encoding import ClientUpdate
from fl.aggregation.private import PrivateAggregator
from fl.engines import Resources
from fl.experiments import private_sums
from fl.experiments.experiment import ArmResult, ArmWork
from fl.experiments.private_sums import DistributedMethod, GaussianMethod, NoisySums, gaussian_multiplier
from fl.experiments.private_users import DATASETS, EPSILONS, METHODS, SEEDS, ArmPrivacy, PrivateArm, arm_name, build
from fl.learning.own_code import make_dataset
from fl.privacy.budget import Budget
from fl.privacy.ledger import Ledger
from fl.privacy.planner import plan_private
from transport import FaultSchedule

LENGTH = 100


def request(clients: int, *, seed: int = 5) -> tuple[RoundRequest, np.ndarray]:
    deltas = np.random.default_rng(seed).normal(size=(clients, LENGTH)).astype(np.float32)

    def train(client_id: int) -> ClientUpdate:
        return ClientUpdate(delta=deltas[client_id], num_examples=3, loss_sum=1.0, metrics=((1, 3),))

    ids = tuple(range(clients))
    asked = RoundRequest(client_ids=ids, train=train, context=b"a round", faults=FaultSchedule(), seed=seed, number=1)
    return asked, deltas


@pytest.mark.parametrize("clients", [9, 12, 15])
@pytest.mark.parametrize("bits", [12, 16])
def test_the_mean_is_that_of_a_session_with_masks_to_the_bit(
    clients: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(epsilon=3, delta=1e-4, rounds=5, clip=0.5, sampling_rate=0.5, ring_bits=bits)
    plan = plan_private(budget, num_clients=12, length=LENGTH)
    asked, _ = request(clients)
    # One key for the noise of every client, since a session asks them in an order of its own.
    monkeypatch.setattr(private, "os", SimpleNamespace(urandom=bytes))
    monkeypatch.setattr(private_sums, "noise_source", lambda seed, client_id: bytes)
    secure = PrivateAggregator(plan, Ledger(None, 3, 1e-4), model={"threshold": None}).aggregate(asked)
    simulated = NoisySums(DistributedMethod(plan)).aggregate(asked)
    assert secure.aggregate is not None is not simulated.aggregate
    assert secure.included == simulated.included
    assert np.array_equal(secure.aggregate.mean_delta, simulated.aggregate.mean_delta)
    assert simulated.bytes_up == clients * 128 * bits // 8


def test_the_exact_gaussian_multiplier_is_that_of_the_emnist_setting() -> None:
    for epsilon, multiplier in ((10, 0.848), (3, 1.614)):
        budget = Budget(epsilon=epsilon, delta=1 / 3400, rounds=1500, clip=0.03, sampling_rate=100 / 3400)
        assert gaussian_multiplier(budget) == pytest.approx(multiplier, abs=0.0007)


@pytest.mark.parametrize("is_local", [False, True])
def test_gaussian_sums_are_those_of_the_clipped_updates_with_the_noise_that_is_said(is_local: bool) -> None:
    asked, deltas = request(20)
    method = GaussianMethod(length=LENGTH, clip=2.0, deviation=3.0, is_local=is_local)
    result = NoisySums(method).aggregate(asked)
    assert result.aggregate is not None
    clipped = deltas * (2.0 / np.linalg.norm(deltas, axis=1, keepdims=True))
    noise = 20 * result.aggregate.mean_delta - clipped.sum(axis=0)
    expected = 3.0 * (math.sqrt(20) if is_local else 1)
    assert np.std(noise) == pytest.approx(expected, rel=6.2 / math.sqrt(2 * LENGTH))
    again = NoisySums(method).aggregate(asked)
    assert again.aggregate is not None
    assert np.array_equal(again.aggregate.mean_delta, result.aggregate.mean_delta)


def test_all_methods_of_an_epsilon_have_nearly_the_noise_of_the_central_one() -> None:
    found = {}
    for name, kind, bits in METHODS:
        chosen = ArmPrivacy(kind=kind, epsilon=3, delta=1 / 3000, clip=0.1, ring_bits=bits)
        _, figures = chosen.method(60, 1 / 30, 100, 7850)
        found[name] = figures["noise_multiplier"]
    central = found["central"]
    assert central * 10 == pytest.approx(found["local"])
    assert central < found["skellam-16"] < 1.001 * central
    assert found["skellam-16"] < found["skellam-14"] < found["skellam-12"] < 1.1 * central


def test_the_arms_are_all_methods_at_all_epsilons_with_each_seed() -> None:
    arms = {arm.name for arm in build(quick=False, seed=0).arms}
    assert len(arms) == len(DATASETS) * SEEDS * (1 + len(EPSILONS) * len(METHODS))
    assert arm_name("mnist", "skellam-12", 10, 2) in arms


def digits(tmp_path: Path, arm: PrivateArm) -> ArmResult:
    folder = tmp_path / arm.name
    folder.mkdir()
    return arm.run(
        ArmWork(
            folder=folder, folders={arm.name: folder}, load=make_dataset, report=lambda *_: None, resources=Resources()
        )
    )


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_arms_train_and_repeat_and_one_without_a_plan_says_why(tmp_path: Path) -> None:
    arms = {arm.name: arm for arm in build(quick=True, seed=0).arms if isinstance(arm, PrivateArm)}
    chosen = [arms[arm_name("digits", method, epsilon, 0)] for method, epsilon in (("none", None), ("skellam-12", 3))]
    results = [digits(tmp_path, arm) for arm in chosen]
    assert results[0]["bytes_up"] > 0
    assert results[1]["client_bytes"] == 1024 * 12 // 8
    (tmp_path / "again").mkdir()
    assert digits(tmp_path / "again", chosen[1])["model_sha256"] == results[1]["model_sha256"]
    assert chosen[1].privacy is not None
    narrow = dataclasses.replace(chosen[1], name="narrow", privacy=dataclasses.replace(chosen[1].privacy, ring_bits=5))
    refused = digits(tmp_path, narrow)
    assert "a ring of 5 bits is too narrow" in refused["headline"]
    assert refused["refused"]
