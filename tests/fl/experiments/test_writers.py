"""The experiment on writers: its arms resume where they were broken off, and its figures are those of the runs."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import summary
from experiments.writers import accuracy_gains, section, summarized
from fl.config.seeds import PERSONALIZATION_SEED, derived_seed
from fl.data import Dataset, load_dataset
from fl.data.idx import parse_idx, read_uncompressed
from fl.errors import ConfigError
from fl.experiments.experiment import Experiment
from fl.experiments.federated import FederatedArm
from fl.experiments.workers import ArmEvent, ArmProgressed, ExperimentError
from fl.experiments.writers import build
from fl.experiments.writers.arms import DROPOUT_MODELS, METHODS
from fl.experiments.writers.personal import PersonalizationArm
from fl.experiments.writers.training import TrainedRun, WritersTraining, by_speed_groups, included_rounds
from fl.learning.serialization import load_model, model_to_bytes
from fl.learning.settings import Local
from fl.learning.training import evaluate
from fl.personalization import Ditto, FineTuning, measure_gain
from fl.report.source import load_run
from fl.runs.rounds import start_runs
from tests.fl.experiments.arms import digits_arm, run_in, untimed
from tests.fl.runs import invoke

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = Local(epochs=1, batch_size=10, learning_rate=0.05, momentum=0.5, bfloat16="off")
DITTO, FULL = Ditto(TRAINING, strength=0.5), FineTuning(TRAINING)
ROUNDS = 3


def trained_arm(**changes: Any) -> WritersTraining:
    """Return an arm with six clients of the digits, of which a third vanishes, mostly the slow ones."""
    values = {"clients": 6, "dropout": 0.34, "dropout_model": "slow", "holdout": 0.3, "partition": "dirichlet"}
    return WritersTraining(federated=digits_arm("federated-slow", rounds=ROUNDS, **values | changes))


def personal_arm(method: FineTuning | Ditto, name: str) -> PersonalizationArm:
    config = trained_arm().federated.config
    return PersonalizationArm(
        name=name, title=f"trial of {name}", trained="federated-slow", config=config, method=method
    )


ARMS = (trained_arm(), personal_arm(DITTO, "ditto-slow"), personal_arm(FULL, "full-slow"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Run all arms in one go; return the folder and the results."""
    folder = tmp_path_factory.mktemp("writers") / "whole"
    return folder, run_in(folder, *ARMS)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


class BrokenOffError(Exception):
    """An error in place of any event that ends a process."""


def break_off_at(arm: str, step: int) -> Callable[[ArmEvent], None]:
    def listen(event: ArmEvent) -> None:
        if isinstance(event, ArmProgressed) and (event.arm, event.done) == (arm, step):
            raise BrokenOffError

    return listen


def comparable(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return all but the times."""
    return {
        name: untimed(result)
        if "by_round" in result
        else {key: value for key, value in result.items() if "seconds" not in key}
        for name, result in results.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(1, ROUNDS + 1))
def test_a_training_that_is_broken_off_ends_with_the_same_bits(
    round_: int, tmp_path: Path, whole: tuple[Path, dict[str, dict[str, Any]]]
) -> None:
    with pytest.raises(BrokenOffError):
        run_in(tmp_path / "broken", *ARMS, listen=break_off_at("federated-slow", round_))
    if round_ == 2:  # Killed a moment earlier, between the round's checkpoint and the copy of its model.
        (tmp_path / "broken" / "federated-slow" / "models" / "00002.safetensors").unlink()
    assert comparable(run_in(tmp_path / "broken", *ARMS)) == comparable(whole[1])


@pytest.mark.slow
def test_a_personalization_that_is_broken_off_ends_with_the_same_bits(
    tmp_path: Path, whole: tuple[Path, dict[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.experiments.writers.personal._WRITERS_A_STEP", 2)
    made: list[int] = []
    measure = measure_gain
    monkeypatch.setattr(
        "fl.experiments.writers.personal.measure_gain",
        lambda worker, client_id, *models: made.append(client_id) or measure(worker, client_id, *models),
    )
    with pytest.raises(BrokenOffError):
        run_in(tmp_path / "broken", *ARMS, listen=break_off_at("ditto-slow", 4))
    results = run_in(tmp_path / "broken", *ARMS)
    assert comparable(results) == comparable(whole[1])
    # Ditto's first four clients were not made again; then the other method's.
    assert made == [0, 1, 2, 3, 4, 5, *range(6)]


def test_included_writers_and_their_speeds(whole: tuple[Path, dict[str, dict[str, Any]]], digits: Dataset) -> None:
    folder, results = whole
    result, config = results["federated-slow"], trained_arm().federated.config
    records = TrainedRun(folder / "federated-slow", config, digits).records()
    assert len(records) == ROUNDS
    assert result["included_rounds"] == included_rounds(records, 6).tolist()
    assert sum(result["included_rounds"]) == sum(result["by_round"]["included"])
    assert [len(record.included) for record in records] == result["by_round"]["included"]
    groups = by_speed_groups(np.array(result["slowness"]))
    assert sorted(np.concatenate(groups).tolist()) == list(range(6))
    medians = [group["median_slowness"] for group in result["by_speed"]]
    assert medians == sorted(medians)
    fastest = result["by_speed"][0]
    assert fastest["included"] == pytest.approx(np.mean([result["included_rounds"][i] for i in groups[0]]) / ROUNDS)


def test_all_held_out_examples_count_for_known_writers(
    whole: tuple[Path, dict[str, dict[str, Any]]], digits: Dataset
) -> None:
    folder, results = whole
    config = trained_arm().federated.config
    trained = TrainedRun(folder / "federated-slow", config, digits)
    trained.records()
    places = np.concatenate([examples.held_out for examples in trained.run.worker.examples])
    found = evaluate(trained.run.model, digits.train_images[places], digits.train_labels[places])
    assert results["federated-slow"]["held_out_accuracy"] == pytest.approx(found.accuracy)
    for arm in ("ditto-slow", "full-slow"):
        columns = results[arm]["by_client"]
        assert sum(columns["held_out"]) == len(places)
        assert sum(columns["global_correct"]) == round(found.accuracy * len(places))
        assert results[arm]["summary"]["global_accuracy"] == pytest.approx(found.accuracy)


def test_ditto_replays_the_rounds_that_a_client_took_part_in(
    whole: tuple[Path, dict[str, dict[str, Any]]], digits: Dataset
) -> None:
    _, results = whole
    config = trained_arm().federated.config
    # Trained again: the model that a client was sent in each round.
    (run,) = start_runs(config, digits)
    sent = [copy.deepcopy(run.model)]
    included = []
    for _ in range(ROUNDS):
        included.append(run.run_round().included)
        sent.append(copy.deepcopy(run.model))
    counts = results["federated-slow"]["included_rounds"]
    for client in (int(np.argmax(counts)), int(np.argmin(counts))):
        rounds = [number for number in range(ROUNDS) if client in included[number]]
        assert len(rounds) == counts[client]
        own = copy.deepcopy(sent[rounds[0] if rounds else ROUNDS])
        for number in [*rounds, ROUNDS]:
            seed = derived_seed(config.seed, PERSONALIZATION_SEED, client, number)
            DITTO.improve(own, sent[number], *run.worker.training_examples(client), seed=seed)
        gain = measure_gain(run.worker, client, run.model, own)
        columns = results["ditto-slow"]["by_client"]
        assert columns["personal_correct"][client] == round(gain.personal_accuracy * gain.held_out)
        assert columns["loss_gain"][client] == pytest.approx(gain.loss_gain, abs=1e-5)


def test_fine_tuning_begins_with_the_last_model_and_alone_with_the_first(
    tmp_path: Path, whole: tuple[Path, dict[str, dict[str, Any]]], digits: Dataset
) -> None:
    folder, results = whole
    shutil.copytree(folder, tmp_path / "more")
    alone = dataclasses.replace(personal_arm(FULL, "alone-slow"), start="initial")
    results = results | run_in(tmp_path / "more", *ARMS, alone)
    config = trained_arm().federated.config
    trained = TrainedRun(folder / "federated-slow", config, digits)
    (fresh,) = start_runs(config, digits)
    assert trained.model(0) == model_to_bytes(fresh.model)
    trained.records()
    assert trained.model(ROUNDS) == model_to_bytes(trained.run.model)
    for name, start in (("full-slow", trained.model(ROUNDS)), ("alone-slow", trained.model(0))):
        personal = copy.deepcopy(trained.run.model)
        load_model(personal, start)
        seed = derived_seed(config.seed, PERSONALIZATION_SEED, 1)
        FULL.personalize(personal, *trained.run.worker.training_examples(1), seed=seed)
        gain = measure_gain(trained.run.worker, 1, trained.run.model, personal)
        assert results[name]["by_client"]["loss_gain"][1] == pytest.approx(gain.loss_gain, abs=1e-5)
    # A client that has learned from others before knows more.
    assert results["full-slow"]["summary"]["loss_gain"]["mean"] > results["alone-slow"]["summary"]["loss_gain"]["mean"]


def test_missing_and_damaged_files_are_named(tmp_path: Path, whole: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "run")
    for arm in ("ditto-slow", "full-slow"):
        shutil.rmtree(tmp_path / "run" / arm)
    (tmp_path / "run" / "federated-slow" / "models" / "00001.safetensors").unlink()
    with pytest.raises(ExperimentError, match=r"ditto-slow: cannot read .*00001\.safetensors: No such file"):
        run_in(tmp_path / "run", *ARMS)
    (tmp_path / "run" / "full-slow" / "gains.json").write_text('{"gains": [{}], "seconds": 1}')
    with pytest.raises(ExperimentError, match=r"full-slow: .*gains\.json is not a file of this program, or is damaged"):
        run_in(tmp_path / "run", ARMS[0], ARMS[2])
    with pytest.raises(ConfigError, match="federated-slow: personal models are measured on held-out examples"):
        trained_arm(holdout=0.0)
    assert isinstance(trained_arm().federated, FederatedArm)


def test_the_real_experiment_is_as_described() -> None:
    arms = {arm.name: arm for arm in build(quick=False, seed=7).arms}
    for name in DROPOUT_MODELS:
        training = arms[f"federated-{name}"]
        assert isinstance(training, WritersTraining)
        config = training.federated.config
        assert (config.data.dataset, config.partition, config.data.clients) == ("mnist-writers", "by-writer", 539)
        assert (config.protocol.aggregator, config.protocol.dropout_model, config.seed) == ("secure", name, 7)
        assert config.sample >= 200
    personal = [arm for arm in arms.values() if isinstance(arm, PersonalizationArm)]
    assert {arm.name for arm in personal} == {f"{method}-{name}" for method in METHODS for name in DROPOUT_MODELS} - {
        "alone-slow"
    }
    for arm in personal:
        trained = arms[arm.trained]
        assert isinstance(trained, WritersTraining)
        assert arm.config == trained.federated.config
        assert arm.needs == (arm.trained,)


def document(results: dict[str, dict[str, Any]], experiment: Experiment) -> dict[str, Any]:
    """Return a document as `fl.experiments.results` makes it."""
    arms = {arm.name: arm for arm in experiment.arms}
    return {
        "unfinished": [name for name in arms if name not in results],
        "arms": [
            {"name": name, "title": arms[name].title, "settings": arms[name].settings(), **result}
            for name, result in results.items()
        ],
    }


@pytest.mark.slow
def test_the_page_gives_the_results(whole: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, results = whole
    experiment = Experiment(name="trial", title="A trial", arms=ARMS)
    made = section(document(results, experiment))
    assert set(made.figures) == {"mnist-writers-dropouts", "mnist-writers-gains-slow"}
    for name, figure in made.figures.items():
        assert f"](experiments/{name}.png)" in made.markdown
        figure.savefig(io.BytesIO(), dpi=40)
        for axes in figure.axes:
            assert axes.get_title()
            assert axes.get_ylabel() or axes.get_yticklabels()[0].get_text()
    gains = accuracy_gains(results["ditto-slow"])
    (row,) = (line for line in made.markdown.splitlines() if line.startswith("| trial of ditto-slow "))
    p10, median, p90 = np.percentile(gains, (10, 50, 90))
    assert f"| {p10:+.2f} | {median:+.2f} | {p90:+.2f} | {gains.mean():+.2f} |" in row
    assert f"{100 * results['federated-slow']['accuracy']:.2f}%" in made.markdown
    assert f"{results['federated-slow']['seconds_per_round']:.1f}" in made.markdown


def test_the_table_by_speed_gives_each_groups_personal_models(
    whole: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    _, results = whole
    experiment = Experiment(name="trial", title="A trial", arms=ARMS)
    markdown = section(document(results, experiment)).markdown
    columns = results["full-slow"]["by_client"]
    slowest = by_speed_groups(np.array(results["federated-slow"]["slowness"]))[-1].tolist()
    correct = sum(columns["personal_correct"][client] for client in slowest)
    held_out = sum(columns["held_out"][client] for client in slowest)
    group = results["federated-slow"]["by_speed"][-1]
    cells = (group["included"], group["accuracy"], correct / held_out)
    assert "| slowest fifth | " + " | ".join(f"{100 * cell:.2f}%" for cell in cells) + " |" in markdown


@pytest.mark.slow
def test_a_group_that_holds_nothing_out_has_no_accuracy(tmp_path: Path) -> None:
    # This small fraction of few examples is not even one example.
    arm = trained_arm(holdout=0.008, clients=20, alpha=0.1, dropout=0.0)
    trained = TrainedRun(tmp_path / "federated-slow", arm.federated.config, load_dataset("digits"))
    empty = [number for number, examples in enumerate(trained.run.worker.examples) if not len(examples.held_out)]
    assert empty
    personal = dataclasses.replace(personal_arm(FULL, "full-slow"), config=arm.federated.config)
    results = run_in(tmp_path, arm, personal)
    assert set(results["full-slow"]["by_client"]["client"]) == set(range(20)) - set(empty)
    experiment = Experiment(name="trial", title="A trial", arms=(arm, personal))
    by_speed = results["federated-slow"]["by_speed"]
    assert any(group["accuracy"] is None for group in by_speed)
    groups = by_speed_groups(np.array(results["federated-slow"]["slowness"]))
    for group, members in zip(by_speed, groups, strict=True):
        assert (group["accuracy"] is None) == (set(members.tolist()) <= set(empty))
    assert section(document(results, experiment)).markdown


def test_a_summary_has_no_single_writers_and_makes_the_same_page(
    whole: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    _, results = whole
    full = document(results, Experiment(name="trial", title="A trial", arms=ARMS)) | {"format": 1}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(full))
    summary.main([str(path)])
    short = json.loads(path.read_text())
    assert short == summarized(short) == summarized(full)
    assert section(short).markdown == section(full).markdown
    assert not any({"by_client", "slowness", "included_rounds"} & set(arm) for arm in short["arms"])
    gains = accuracy_gains(results["ditto-slow"])
    kept = next(arm["accuracy_gains"] for arm in short["arms"] if arm["name"] == "ditto-slow")
    assert (kept[0], kept[-1]) == pytest.approx((gains.min(), gains.max()), abs=1e-3)


def test_the_page_copes_with_what_has_not_finished(whole: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, results = whole
    experiment = Experiment(name="trial", title="A trial", arms=ARMS)
    assert section(document({}, experiment)).figures == {}
    only = section(document({"federated-slow": results["federated-slow"]}, experiment))
    assert set(only.figures) == {"mnist-writers-dropouts"}
    assert "Personal models" not in only.markdown


@pytest.mark.slow
@pytest.mark.data
def test_nobody_who_wrote_a_test_image_is_a_client(mnist_folder: Path) -> None:
    dataset = load_dataset("mnist-writers", mnist_folder, download=False)
    path = mnist_folder / "qmnist" / "qmnist-test-labels-idx2-int.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    # The first 10,000 rows belong to MNIST's test images.
    table = parse_idx(read_uncompressed(path))[:10_000]
    assert np.array_equal(table[:, 0], dataset.test_labels.numpy())
    assert dataset.train_writers is not None
    clients, others = set(dataset.train_writers.tolist()), set(table[:, 2].tolist())
    assert (len(clients), len(others)) == (539, 297)
    assert clients.isdisjoint(others)


@pytest.mark.slow
def test_quick_gives_all_arms_as_a_command(tmp_path: Path) -> None:
    out, copied = tmp_path / "run", tmp_path / "results.json"
    result = invoke("experiment", "mnist-writers", "--quick", "--jobs", 1, "--out", out, "--results", copied, "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made == json.loads(copied.read_text())
    arms = build(quick=True, seed=0).arms
    assert [arm["name"] for arm in made["arms"]] == [arm.name for arm in arms]
    markdown = section(made).markdown
    for arm in arms:
        assert arm.title in markdown
    assert "12 writers" in markdown
    run = load_run(out / "federated-slow" / "run")
    assert [one.name for one in run.series] == ["anyone vanishes"]
    personalization = run.personalization
    assert personalization is not None
    assert [method.name for method in personalization.methods] == [
        METHODS[name][0] for name in METHODS if name != "alone"
    ]
    full = next(arm for arm in made["arms"] if arm["name"] == "full-slow")
    gains = personalization.methods[1].gains
    assert np.median(gains) == pytest.approx(100 * full["summary"]["accuracy_gain"]["median"])
