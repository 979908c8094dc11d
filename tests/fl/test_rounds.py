"""The federated loop: the same securely and in the clear, and bound to the model that was sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl.aggregation.api import PlainAggregator, RoundRequest, RoundResult
from fl.aggregation.encoding import Aggregate
from fl.engines import local_worker as local_work
from fl.errors import ConfigError
from fl.learning import task
from fl.learning.models import build_model
from fl.learning.parameter_layout import ParameterLayout, context_digest
from fl.learning.serialization import model_to_bytes
from fl.learning.training import train
from fl.runs import rounds
from fl.runs.records import RoundRecord, record_to_json
from fl.runs.rounds import FederatedRun, start_runs
from secagg import PlanError, Round
from tests.fl.runs import state_bytes, tiny_config, tiny_dataset, untimed
from transport import Direction, Fault, FaultSchedule
from transport.faults import ROUNDS_OF_EVERY_SESSION

pytestmark = pytest.mark.usefixtures("one_thread")

DATASET = tiny_dataset()


def make_run(aggregator: Any = "secure", **changes: Any) -> FederatedRun:
    return FederatedRun(tiny_config(**changes), DATASET, aggregator)


def run_rounds(run: FederatedRun, count: int) -> list[RoundRecord]:
    return [run.run_round() for _ in range(count)]


def vector(model: nn.Module) -> np.ndarray:
    return ParameterLayout.of(model).to_vector(model)


class Listener:
    """A replacement for an aggregator: keeps the requests, and answers each with the given mean update."""

    name = "secure"

    def __init__(self, answer: Callable[[RoundRequest], Aggregate | None] = lambda request: None) -> None:
        self.requests: list[RoundRequest] = []
        self._answer = answer

    def aggregate(self, request: RoundRequest) -> RoundResult:
        self.requests.append(request)
        aggregate = self._answer(request)
        included = request.client_ids if aggregate else ()
        return RoundResult(aggregate=aggregate, included=included, aborted=None if aggregate else "nobody came")


def listen(run: FederatedRun, count: int, answer: Any = lambda request: None) -> list[RoundRequest]:
    """Return the requests of ``count`` rounds."""
    listener = Listener(answer)
    run.aggregator = listener
    run_rounds(run, count)
    return listener.requests


@pytest.mark.slow
@pytest.mark.parametrize("dropout_at", ["any", "masked-input-collection"])
def test_secure_training_follows_plain_training(dropout_at: str) -> None:
    secure, plain = start_runs(
        tiny_config(compare=True, clients=8, dropout=0.3, dropout_at=(dropout_at,), epochs=2), DATASET
    )
    start = vector(secure.model)
    for _ in range(4):
        own, other = secure.run_round(), plain.run_round()
        assert own.included == other.included
        assert own.ring_difference == 0
        assert other.ring_difference is None
        assert own.num_examples == other.num_examples
        assert own.train_loss == pytest.approx(other.train_loss, abs=1e-4)
        # Rounding adds less than step n max_examples / examples, 2^-22 here, a round, and training hardly more.
        np.testing.assert_allclose(vector(secure.model), vector(plain.model), atol=2e-6)
    assert np.abs(vector(secure.model) - start).max() > 0.1
    assert own.accuracy > 0.9


def test_the_new_model_is_the_weighted_mean_of_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """McMahan et al. 2017, algorithm 1, with a server's learning rate."""
    local: list[tuple[int, np.ndarray]] = []

    def note(model: nn.Module, images: torch.Tensor, *args: Any, **options: Any) -> Any:
        result = train(model, images, *args, **options)
        local.append((len(images), vector(model).astype(np.float64)))
        return result

    monkeypatch.setattr(local_work, "train", note)
    run = make_run("plain", partition="dirichlet", alpha=0.5, server_learning_rate=0.5)
    before = vector(run.model).astype(np.float64)
    record = run.run_round()
    counts = [count for count, _ in local]
    assert len(set(counts)) > 1
    assert sum(counts) == record.num_examples == 240
    mean = np.average([after for _, after in local], axis=0, weights=counts)
    np.testing.assert_allclose(vector(run.model), before + 0.5 * (mean - before), atol=1e-6)


def test_every_client_starts_from_the_servers_model(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[dict[str, bytes]] = []

    def note(model: nn.Module, *args: Any, **options: Any) -> Any:
        received.append(state_bytes(model))
        return train(model, *args, **options)

    monkeypatch.setattr(local_work, "train", note)
    run = make_run("secure")
    for _ in range(2):
        sent = state_bytes(run.model)
        received.clear()
        run.run_round()
        assert received == [sent] * 6


def test_every_client_trains_on_its_own_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []

    def note(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *args: Any, **options: Any) -> Any:
        given.append(images)
        return train(model, images, labels, *args, **options)

    monkeypatch.setattr(local_work, "train", note)
    make_run("plain").run_round()
    together = torch.cat(given)
    assert len(together) == len(DATASET.train_images)
    assert len(together.flatten(1).unique(dim=0)) == len(DATASET.train_images)


def test_the_round_and_the_model_are_bound_into_the_session() -> None:
    still = [request.context for request in listen(make_run(), 3)]
    # The model did not change: only the round's number makes the difference.
    assert len(set(still)) == 3
    assert still == [request.context for request in listen(make_run(), 3)]
    other_model = [request.context for request in listen(make_run(seed=12), 3)]
    assert not set(still) & set(other_model)

    def moved(request: RoundRequest) -> Aggregate:
        return Aggregate(np.full(51, 1e-6, np.float32), 240, 1.0, {"accuracy": 0.5}, 0.0)

    changed = [request.context for request in listen(make_run(), 3, moved)]
    assert changed[0] == still[0]
    assert not set(changed[1:]) & set(still)


@pytest.mark.slow
def test_the_context_is_of_the_model_that_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client can compute it by itself, from the model that it received and the round's number."""
    received: list[bytes] = []

    def note(model: nn.Module, *args: Any, **options: Any) -> Any:
        received.append(context_digest(model))
        return train(model, *args, **options)

    monkeypatch.setattr(local_work, "train", note)
    run = make_run()
    run.run_round()
    digest = context_digest(run.model)
    received.clear()
    run.run_round()
    assert set(received) == {digest}


def test_a_client_binds_what_it_received_and_not_what_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    request = listen(run, 1)[0]
    assert {request.received_context(client_id) for client_id in request.client_ids} == {request.context}

    fair = run._model_messages

    def unfair(sampled: tuple[int, ...]) -> dict[int, bytes]:
        victim = make_run(seed=99).model
        return {**fair(sampled), sampled[2]: model_to_bytes(victim)}

    monkeypatch.setattr(run, "_model_messages", unfair)
    request = listen(run, 1)[0]
    contexts = [request.received_context(client_id) for client_id in request.client_ids]
    assert [context == request.context for context in contexts] == [True, True, False, True, True, True]


def test_a_client_with_a_different_model_is_not_in_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(compare=True)
    fair = run._model_messages

    def unfair(sampled: tuple[int, ...]) -> dict[int, bytes]:
        return {**fair(sampled), sampled[0]: model_to_bytes(make_run(seed=99).model)}

    monkeypatch.setattr(run, "_model_messages", unfair)
    record = run.run_round()
    assert record.included == (1, 2, 3, 4, 5)
    assert record.ring_difference == 0


def test_the_mean_update_is_scaled_and_added() -> None:
    run = make_run("plain", server_learning_rate=0.25)
    before = vector(run.model)
    update = np.linspace(-1, 1, 51, dtype=np.float32)
    listen(run, 1, lambda request: Aggregate(update, 240, 1.0, {"accuracy": 0.5}, 0.0))
    np.testing.assert_allclose(vector(run.model), before + 0.25 * update, atol=1e-6)


def test_an_aborted_round_leaves_the_model_and_the_run_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    def schedule(config: Any, sampled: tuple[int, ...], number: int) -> FaultSchedule:
        """Let all but one client leave in the second round."""
        gone = sampled[1:] if number == 2 else ()
        return FaultSchedule({(i, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH for i in gone})

    monkeypatch.setattr(rounds, "dropout_schedule", schedule)
    run = make_run("secure", compare=True, server_optimizer="fedadam")
    first = run.run_round()
    before = state_bytes(run.model)
    remembered = {name: value.tolist() for name, value in run.server_optimizer.state().items()}
    aborted = run.run_round()
    assert state_bytes(run.model) == before
    assert {name: value.tolist() for name, value in run.server_optimizer.state().items()} == remembered
    assert run.rounds_done == aborted.round == 2
    assert aborted.aborted is not None
    assert "MaskedInputCollection" in aborted.aborted
    assert "needed 4, had 1" in aborted.aborted
    assert aborted.included == ()
    assert aborted.num_examples == 0
    assert aborted.dropped == {"MaskedInputCollection": 5}
    assert aborted.train_accuracy is aborted.train_loss is aborted.clipped is aborted.ring_difference is None
    assert (aborted.accuracy, aborted.loss) == (first.accuracy, first.loss)
    third = run.run_round()
    assert third.round == 3
    assert third.aborted is None
    assert state_bytes(run.model) != before


def test_a_record_says_what_happened() -> None:
    run = make_run("secure", dropout=0.34, sample=6, dropout_at=("unmasking",))
    heard: list[tuple[str, Round, int, int]] = []
    record = run.run_round(lambda *state: heard.append(state))
    assert record.round == 1
    assert record.aggregator == "secure"
    assert record.sampled == len(record.included) == 6
    assert record.dropped == {"Unmasking": 2}
    assert record.num_examples == 240
    assert 0 < record.train_accuracy < 1
    assert record.clipped == 0
    # Floats and a header, to each of the six.
    assert record.model_bytes > 6 * 4 * 51
    assert record.bytes_up > 6 * 51 * 3
    assert record.ring_difference is None
    assert record.training_seconds < record.seconds
    assert {round_ for _, round_, _, _ in heard} == set(ROUNDS_OF_EVERY_SESSION)
    values = json.loads(json.dumps(record_to_json(record), allow_nan=False))
    assert untimed(values) == untimed(record)


def test_clipping_is_reported_and_bounds_the_step() -> None:
    run = make_run("secure", clip=2**-7, learning_rate=0.5)
    before = vector(run.model)
    record = run.run_round()
    assert record.clipped is not None
    assert 0.5 < record.clipped <= 1
    assert np.abs(vector(run.model) - before).max() < 2**-7 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0.01, 0.003, 0.7])
def test_any_clipping_bound_is_accepted(clip: float) -> None:
    """Most elements are clipped to -clip, which float32 does not hold exactly."""
    run = make_run("secure", clip=clip, learning_rate=2.0, compare=True)
    assert [record.aborted for record in run_rounds(run, 3)] == [None] * 3


def with_batch_norm(
    name: str, *, image_shape: tuple[int, int, int], num_classes: int, seed: int, **_: Any
) -> nn.Module:
    model = build_model("logistic", image_shape=image_shape, num_classes=num_classes, seed=seed)
    return nn.Sequential(nn.BatchNorm2d(1), *model)


@pytest.mark.parametrize("aggregator", ["secure", "plain"])
def test_counters_of_batch_norm_stay_the_servers_and_its_means_are_averaged(
    aggregator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float buffers travel; integer ones never do and are reset before each client (`fl.learning.parameter_layout`)."""
    started_at: list[int] = []
    local: list[tuple[int, np.ndarray]] = []

    def note(model: nn.Module, images: torch.Tensor, *args: Any, **options: Any) -> Any:
        started_at.append(int(model[0].num_batches_tracked))
        result = train(model, images, *args, **options)
        assert model[0].num_batches_tracked == started_at[-1] + 4
        local.append((len(images), model[0].running_var.numpy().copy()))
        return result

    monkeypatch.setattr(task, "make_model", with_batch_norm)
    monkeypatch.setattr(local_work, "train", note)
    run = make_run(aggregator)
    run.model[0].num_batches_tracked.fill_(7)
    for _ in range(2):
        local.clear()
        run.run_round()
        mean = np.average([variance for _, variance in local], axis=0, weights=[count for count, _ in local])
        np.testing.assert_allclose(run.model[0].running_var.numpy(), mean, atol=1e-5)
        assert run.model[0].running_var.item() != 1
        assert run.model[0].num_batches_tracked == 7
    assert started_at == [7] * 12


def test_both_runs_of_a_comparison_start_alike() -> None:
    secure, plain = start_runs(tiny_config(compare=True), DATASET)
    assert (secure.aggregator.name, plain.aggregator.name) == ("secure", "plain")
    assert state_bytes(secure.model) == state_bytes(plain.model)
    assert secure.plan is not None
    assert plain.plan is None
    alone = start_runs(tiny_config(), DATASET)
    assert [run.aggregator.name for run in alone] == ["secure"]
    assert isinstance(start_runs(tiny_config(aggregator="plain"), DATASET)[0].aggregator, PlainAggregator)


def test_the_plan_is_for_the_sample_and_its_dropouts() -> None:
    run = make_run("secure", clients=20, sample=10, dropout=0.2, corrupt=0.2)
    assert run.plan is not None
    assert run.plan.parameters.num_clients == 10
    assert run.plan.parameters.threshold == 7
    assert run.plan.expected_dropouts == 2
    with pytest.raises(PlanError, match=r"5 of 10 clients are expected to vanish .*; a sparse graph allows it"):
        make_run("secure", clients=20, sample=10, dropout=0.5, graph="complete")


def test_a_run_that_does_not_fit_the_data_is_refused_before_it_starts() -> None:
    with pytest.raises(ConfigError, match="examples"):
        make_run("secure", clients=241)
    with pytest.raises(ConfigError, match="the owner of each example"):
        make_run("secure", partition="by-writer")
