"""The arm that is a training run: it resumes where it was broken off, bit for bit, and reports its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from fl.config.run_config import RunConfig
from fl.data import load_dataset
from fl.errors import ConfigError
from fl.experiments.federated import FederatedArm, Part
from fl.experiments.files import read_json
from fl.experiments.workers import ArmEvent, ArmProgressed, ExperimentError
from fl.learning.serialization import model_to_bytes
from fl.learning.training import evaluate
from fl.runs.records import RoundRecord
from fl.runs.rounds import FederatedRun, start_runs
from tests.fl.experiments.arms import digits_arm, run_in, untimed

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


class BrokenOffError(Exception):
    """An error in place of any event that ends a process."""


def break_off_after(round_: int) -> Callable[[ArmEvent], None]:
    """Return a listener that ends the run after a round."""

    def listen(event: ArmEvent) -> None:
        if isinstance(event, ArmProgressed) and event.done == round_:
            raise BrokenOffError

    return listen


def test_a_model_that_ran_away_has_a_result_and_the_same_one_after_a_break(tmp_path: Path) -> None:
    """Its loss is not a number, and JSON has no NaN."""
    arm = digits_arm(rounds=1, server_learning_rate=3e38)
    run_in(tmp_path / "whole", arm)
    with pytest.raises(BrokenOffError):
        run_in(tmp_path / "broken", arm, listen=break_off_after(1))
    run_in(tmp_path / "broken", arm)
    whole, again = (read_json(tmp_path / name / "run" / "result.json") for name in ("whole", "broken"))
    assert whole["by_round"]["loss"] == [None]
    assert untimed(again) == untimed(whole)


def test_an_arm_whose_rounds_were_all_aborted_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FederatedRun.run_round
    aborts = [True, False, True, True, True]

    def sometimes_aborted(run: FederatedRun) -> RoundRecord:
        record = whole(run)
        return dataclasses.replace(record, aborted="too few clients", included=()) if aborts.pop(0) else record

    monkeypatch.setattr(FederatedRun, "run_round", sometimes_aborted)
    assert run_in(tmp_path / "one", digits_arm(rounds=2))["run"]["aborted"] == 1
    with pytest.raises(ExperimentError, match=r"run: no round came to a sum, .* the last one: too few clients"):
        run_in(tmp_path / "none", digits_arm(rounds=3))
    assert not (tmp_path / "none" / "run" / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("broken_after", [1, 2, 3])
def test_a_run_that_is_broken_off_ends_with_the_same_bits(tmp_path: Path, broken_after: int) -> None:
    arm = digits_arm(before_averaging=True, dropout=0.25, server_optimizer="fedavgm")
    whole = run_in(tmp_path / "whole", arm)["run"]
    with pytest.raises(BrokenOffError):
        run_in(tmp_path / "broken", arm, listen=break_off_after(broken_after))
    seen: list[ArmEvent] = []
    again = run_in(tmp_path / "broken", arm, listen=seen.append)["run"]
    assert untimed(again) == untimed(whole)
    # It did not start again.
    assert [event.done for event in seen if isinstance(event, ArmProgressed)] == list(range(broken_after + 1, 4))
    assert len(whole["by_round"]["accuracy"]) == whole["rounds"] == 3
    assert whole["seconds"] == pytest.approx(sum(whole["by_round"]["seconds"]), abs=0.01)


def test_it_is_the_run_that_the_config_stands_for(tmp_path: Path) -> None:
    arm = digits_arm()
    result = run_in(tmp_path, arm)["run"]
    dataset = load_dataset("digits")
    (run,) = start_runs(arm.config, dataset)
    records = [run.run_round() for _ in range(3)]
    assert result["accuracy"] == records[-1].accuracy
    assert result["by_round"]["accuracy"] == [round(record.accuracy, 6) for record in records]
    assert result["bytes_up"] == sum(record.bytes_up for record in records)
    assert result["train_accuracy"] == evaluate(run.model, dataset.train_images, dataset.train_labels).accuracy
    assert result["parameters"] == 650
    assert result["reached"] is None


def test_it_stops_at_the_accuracy_that_it_is_to_reach_and_stays_there(tmp_path: Path) -> None:
    accuracies = run_in(tmp_path / "all", digits_arm(rounds=5))["run"]["by_round"]["accuracy"]
    # The result has six decimals.
    target = accuracies[1] - 1e-6
    first = next(number for number, accuracy in enumerate(accuracies, 1) if accuracy >= target)
    arm = digits_arm(rounds=5, stop_at=target)
    with pytest.raises(BrokenOffError):
        run_in(tmp_path / "stopped", arm, listen=break_off_after(first))
    result = run_in(tmp_path / "stopped", arm)["run"]
    assert result["reached"] == result["rounds"] == first
    assert result["by_round"]["accuracy"] == accuracies[:first]


def test_clients_are_measured_with_the_models_that_the_last_round_averages(tmp_path: Path) -> None:
    arm = digits_arm(before_averaging=True, aggregator="plain")
    result = run_in(tmp_path / "with", arm)["run"]
    assert [one["client"] for one in result["clients"]] == [0, 1, 2, 3]
    assert {one["round"] for one in result["clients"]} == {3}
    dataset = load_dataset("digits")
    (run,) = start_runs(arm.config, dataset)
    run.run_round()
    run.run_round()
    run.worker.update(2, 3, model_to_bytes(run.model))
    test = evaluate(run.worker.model, dataset.test_images, dataset.test_labels)
    assert result["clients"][2]["test_accuracy"] == test.accuracy
    assert sum(one["train_examples"] for one in result["clients"]) == len(dataset.train_labels)
    # Measuring them does not change the run.
    without = run_in(tmp_path / "without", digits_arm(aggregator="plain"))["run"]
    assert result["model_sha256"] == without["model_sha256"]


def test_a_client_alone_has_only_its_own_examples(tmp_path: Path) -> None:
    arms = [
        digits_arm(f"alone-{client}", clients=1, aggregator="plain", part=Part(client=client, clients=4), rounds=1)
        for client in range(4)
    ]
    results = run_in(tmp_path, *arms)
    federation = digits_arm().config
    (run,) = start_runs(federation, load_dataset("digits"))
    for client in range(4):
        (alone,) = start_runs(arms[client].config, arms[client]._dataset(_Loading()))  # type: ignore[arg-type]
        images, labels = alone.worker.training_examples(0)
        expected_images, expected_labels = run.worker.training_examples(client)
        assert images.equal(expected_images)
        assert labels.equal(expected_labels)
    assert len({result["model_sha256"] for result in results.values()}) == 4


class _Loading:
    """The part of an `ArmWork` that the data needs."""

    load = staticmethod(load_dataset)


def test_arms_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="use another arm to compare"):
        digits_arm(compare=True)
    with pytest.raises(ConfigError, match="a run of one client, not 4"):
        digits_arm(part=Part(client=0, clients=4))
    with pytest.raises(ConfigError, match="with stop_at the last round is not known"):
        digits_arm(before_averaging=True, stop_at=0.5)


def test_secure_and_plain_arms_agree(tmp_path: Path) -> None:
    results = run_in(tmp_path, digits_arm("secure"), digits_arm("plain", aggregator="plain"))
    assert results["secure"]["accuracy"] == pytest.approx(results["plain"]["accuracy"], abs=0.006)
    assert results["secure"]["bytes_up"] != results["plain"]["bytes_up"]


def test_settings_say_all_that_the_arm_is_made_of() -> None:
    arm = digits_arm(stop_at=0.5)
    settings = arm.settings()
    assert RunConfig.from_json(settings["config"]) == arm.config.settled()
    assert {"stop_at", "part", "before_averaging"} <= settings.keys()
    identity = {"name", "title", "needs"}
    assert settings.keys() == set(FederatedArm.__dataclass_fields__) - identity
