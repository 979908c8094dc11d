"""`secagg train` as a program: JSON on stdout and all else on stderr, and one clear line for each mistake."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fl.config.run_config import RunConfig
from fl.formatting import format_bytes, percent
from fl.runs.display import TrainingDisplay, summary_table
from fl.runs.records import RoundRecord
from fl.runs.summary import summarize
from secagg import Round
from tests.fl.runs import assert_refused, invoke, run_process, tiny_config, use_tiny_data

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SMALL = ("--model", "logistic", "--clients", 6, "--rounds", 2, "--epochs", 1)


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small data, and skip the figure, which would take longer than all else."""
    use_tiny_data(monkeypatch)
    monkeypatch.setattr("fl.federated_training.save_plot", lambda path, *_: path.write_bytes(b""))


def strict_json(text: str) -> Any:
    """Parse JSON as other languages do: it has no NaN."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.live
def test_json_is_one_object_on_stdout_and_everything_else_is_on_stderr(tmp_path: Path) -> None:
    """A separate process runs on the real digits."""
    result = run_process(
        "train", "--model", "logistic", "--clients", 8, "--rounds", 2, "--epochs", 1, "--dropout", 0.25,
        "--compare", "--json", "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    summary = strict_json(result.stdout)
    assert summary["rounds"] == 2
    assert len(summary["included"]) == 2
    assert all(6 <= count <= 8 for count in summary["included"])
    assert [len(ids) for ids in summary["included_clients"]] == summary["included"]
    assert [sum(counts.values()) for counts in summary["dropped"]] == [2, 2]
    assert summary["accuracy"] > 0.85
    assert abs(summary["accuracy"] - summary["plain_accuracy"]) < 0.01
    assert summary["ring_difference"] == 0
    assert summary["seconds"] == pytest.approx(2 * summary["seconds_per_round"])
    assert 0 < summary["training_seconds_per_round"] < summary["seconds_per_round"]
    # 650 parameters: a little over 3 bytes each up for each included client, 4 down for every client.
    assert summary["bytes_up"] > sum(summary["included"]) * 650 * 3
    assert summary["bytes_down"] > summary["model_bytes"] > 2 * 8 * 650 * 4
    assert summary["plain_bytes_up"] > sum(summary["included"]) * 650 * 4
    assert summary["plan"]["threshold"] == 5

    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("round 1/2")]
    assert [line for line in lines if line.startswith("round 2/2")]
    assert "test accuracy" in result.stderr
    assert "threshold 5 of 8" in result.stderr
    # Progress bars are for terminals.
    assert "\x1b" not in result.stderr
    records = [strict_json(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-2]["accuracy"] == summary["accuracy"]
    assert sum(record["bytes_up"] for record in records if record["aggregator"] == "secure") == summary["bytes_up"]


def test_an_error_is_a_line_and_with_json_an_object_too() -> None:
    result = invoke("train", "--dataset", "cifar", "--json")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: unknown dataset 'cifar'; known are digits, fashion-mnist, mnist, mnist-writers, leaf-femnist"
    ]
    assert len(result.stdout.splitlines()) == 1
    assert strict_json(result.stdout)["reasons"] == [result.stderr.strip().removeprefix("error: ")]


@pytest.mark.usefixtures("tiny_data")
def test_without_json_the_run_is_reported_on_stdout() -> None:
    result = invoke("train", *SMALL, "--compare", "--dropout", 0.34)
    assert result.exit_code == 0, result.exception
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("digits, logistic with 51 parameters; 6 clients (iid), 6 a round")
    assert "34.00% vanish" in lines[0]
    assert "threshold 4 of 6" in lines[1]
    done = [line for line in lines if line.startswith("round ")]
    assert len(done) == 2
    for line in done:
        assert "accuracy" in line
        assert "plain" in line
        assert " of 6 in the sum" in line
    assert any("secure sum less plain sum" in line and " 0 " in line for line in lines)


@pytest.mark.usefixtures("tiny_data")
def test_the_figures_without_a_comparison_speak_of_one_run_only() -> None:
    for aggregator in ("secure", "plain"):
        result = invoke("train", *SMALL, "--aggregator", aggregator, "--json")
        summary = strict_json(result.stdout)
        assert summary["aggregator"] == aggregator
        assert "plain_accuracy" not in summary
        assert "ring_difference" not in summary
        assert ("plan" in summary) == (aggregator == "secure")
        # Clipped elements are counted only where elements are clipped.
        assert (summary["clipped"] is None) == (aggregator == "plain")


@pytest.mark.usefixtures("tiny_data")
def test_options_reach_the_run(tmp_path: Path) -> None:
    result = invoke(
        "train", "--model", "2nn", "--clients", 8, "--sample", 5, "--rounds", 1, "--epochs", 2, "--batch", 7,
        "--lr", 0.03, "--momentum", 0.25, "--server-lr", 0.5, "--partition", "dirichlet", "--alpha", 2.5,
        "--shards-per-client", 3, "--dropout", 0.2, "--dropout-at", "unmasking", "--dropout-at", "share-keys",
        "--corrupt", 0.2, "--compare", "--clip", 0.5, "--value-bits", 20, "--seed", 77, "--no-channels-last",
        "--bfloat16", "off", "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert RunConfig.from_json(json.loads((tmp_path / "config.json").read_text())) == RunConfig.of(
        dataset="digits", model="2nn", clients=8, sample=5, rounds=1, epochs=2, batch_size=7, learning_rate=0.03,
        momentum=0.25, server_learning_rate=0.5, partition="dirichlet", alpha=2.5, shards_per_client=3, dropout=0.2,
        dropout_at=("unmasking", "share-keys"), corrupt=0.2, aggregator="secure", compare=True, clip=0.5,
        value_bits=20, seed=77, channels_last=False, bfloat16="off",
    ).settled()  # fmt: skip


@pytest.mark.usefixtures("tiny_data")
def test_without_options_the_run_is_the_configs_default(tmp_path: Path) -> None:
    result = invoke("train", "--model", "logistic", "--rounds", 1, "--out", tmp_path)
    assert result.exit_code == 0
    stored = RunConfig.from_json(json.loads((tmp_path / "config.json").read_text()))
    assert stored == RunConfig.of(model="logistic", rounds=1).settled()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dataset", "cifar"), "unknown dataset 'cifar'"),
        (("--model", "resnet"), "unknown model 'resnet'"),
        (("--partition", "random"), "unknown partition 'random'"),
        (("--partition", "by-writer"), "mnist-writers"),
        (("--aggregator", "magic"), "unknown aggregator 'magic'"),
        (("--dropout-at", "lunch"), "unknown dropout point 'lunch'"),
        (("--clients", -1), "clients must be"),
        (("--clients", 0), "clients must be"),
        (("--clients", 1), "at least 2 clients"),
        (("--clients", 241), "241"),
        (("--clients", 10**12), ""),
        (("--sample", 7), "between 1 and the 6 clients, not 7"),
        (("--sample", -1), "not -1"),
        (("--sample", 0), "not 0"),
        (("--rounds", 0), "rounds must be"),
        (("--rounds", -1), "rounds must be"),
        (("--epochs", -1), "epochs must be"),
        (("--batch", -1), "batch_size must be"),
        (("--lr", -1), "learning_rate"),
        (("--lr", "nan"), "learning_rate"),
        (("--momentum", 1), "momentum"),
        (("--server-lr", -1), "server_learning_rate"),
        (("--partition", "dirichlet", "--alpha", -1), "alpha"),
        (("--partition", "shards", "--shards-per-client", -1), "shards_per_client"),
        (("--partition", "shards", "--shards-per-client", 1000), "shards"),
        (("--dropout", 1.5), "dropout must be a fraction"),
        (("--dropout", -0.5), "dropout must be a fraction"),
        (("--dropout", "nan"), "dropout must be a fraction"),
        (("--corrupt", 2), "corrupt must be a fraction"),
        (("--dropout", 0.6), "3 of 6 clients are expected to vanish and 3 to remain, 1 fewer than the threshold 4"),
        (("--clip", 0), "clip"),
        (("--clip", "inf"), "clip"),
        (("--clip", 1e300), "clip"),
        (("--value-bits", 3), "between 4 and 32, not 3"),
        (("--value-bits", 33), "between 4 and 32, not 33"),
        (("--value-bits", 0), "0"),
        (("--seed", -1), "seed"),
        (("--bfloat16", "maybe"), "bfloat16"),
        (("--aggregator", "plain", "--compare"), "compare"),
    ],
)
@pytest.mark.usefixtures("tiny_data")
def test_a_mistake_is_one_line_that_names_it(options: tuple[object, ...], said: str) -> None:
    assert_refused(invoke("train", *SMALL, *options), said)


def test_all_mistakes_are_named_at_once() -> None:
    assert_refused(
        invoke("train", "--model", "resnet", "--rounds", 0, "--dropout", 1.5, "--lr", -1, "--clip", 0, "--seed", -1),
        "resnet", "rounds", "dropout", "learning", "clip", "seed",
    )  # fmt: skip


@pytest.mark.parametrize("options", [("--seed",), ("--batch",), ("--partition", "shards", "--shards-per-client")])
@pytest.mark.usefixtures("tiny_data")
def test_a_number_that_fits_no_machine_word_runs_or_is_refused(options: tuple[str, ...]) -> None:
    result = invoke("train", *SMALL, *options, 10**30)
    if result.exit_code:
        assert_refused(result)


@pytest.mark.usefixtures("tiny_data")
def test_each_reason_of_a_plan_is_one_line() -> None:
    result = invoke("train", *SMALL, "--dropout", 0.6, "--corrupt", 0.5, "--json")
    assert result.exit_code == 1
    reasons = strict_json(result.stdout)["reasons"]
    assert len(reasons) == 2
    assert [line.removeprefix("  - ") for line in result.stderr.splitlines()[1:]] == reasons


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "mnist-writers"])
def test_a_missing_data_folder_is_named(dataset: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert_refused(invoke("train", *SMALL, "--dataset", dataset, "--data-dir", missing), str(missing))


@pytest.mark.usefixtures("tiny_data")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/dev/null/run"), tmp_path / ("x" * 300)):
        result = invoke("train", *SMALL, "--out", out)
        assert_refused(result, str(out))
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("option", ["--resume", "--data-dir"])
def test_a_path_that_is_too_long_is_refused(option: str) -> None:
    assert_refused(invoke("train", "--dataset", "digits" if option == "--resume" else "mnist", option, "x" * 300))


@pytest.mark.parametrize("name", ["[/red]", "[bold]", "a [b] c"])
@pytest.mark.usefixtures("tiny_data")
def test_a_folders_name_is_shown_unchanged(name: str, tmp_path: Path) -> None:
    """Brackets are markup to the console: they must neither fail nor vanish."""
    out = tmp_path / name
    assert_refused(invoke("train", "--resume", out), str(out))
    result = invoke("train", *SMALL, "--out", out)
    assert result.exit_code == 0, repr(result.exception)
    assert str(out / "model.safetensors") in result.stdout.replace("\n", "")
    assert_refused(invoke("train", *SMALL, "--out", out), str(out))
    result = invoke("train", "--resume", out)
    assert result.exit_code == 0, repr(result.exception)
    assert str(out) in result.stdout.replace("\n", "")


@pytest.mark.usefixtures("tiny_data")
def test_a_model_that_ran_away_gives_valid_json(tmp_path: Path) -> None:
    result = invoke("train", *SMALL, "--lr", 5, "--server-lr", 3e38, "--rounds", 1, "--json", "--out", tmp_path)
    if result.exit_code:
        assert "error: " in result.stderr
        assert isinstance(result.exception, SystemExit), repr(result.exception)
    strict_json(result.stdout)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        strict_json(line)


@pytest.mark.usefixtures("tiny_data")
def test_a_run_that_diverges_keeps_its_whole_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fl.engines import local_worker as local_work
    from fl.learning.training import DivergedError, train

    calls = 0

    def diverge(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise DivergedError("the loss is nan")
        return train(*args, **options)

    monkeypatch.setattr(local_work, "train", diverge)
    result = invoke("train", *SMALL, "--out", tmp_path)
    assert result.exit_code == 1
    said = "error: no client has an update that may be sent; client 0: the loss is nan\n"
    assert result.stderr == said
    monkeypatch.setattr(local_work, "train", train)
    assert invoke("train", "--resume", tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345, "12.3 kB"), (9.87e6, "9.87 MB"), (3e9, "3 GB"),
     (5e12, "5 TB"), (999_600, "1 MB")],
)  # fmt: skip
def test_bytes_have_three_figures(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_a_fraction_is_a_percentage_of_two_decimals() -> None:
    assert percent(0.12345) == "12.35%"
    assert percent(1.0) == "100.00%"
    assert percent(None) == "-"


def make_record(number: int = 1, **changes: Any) -> RoundRecord:
    values: dict[str, Any] = {
        "round": number, "aggregator": "secure", "accuracy": 0.5, "loss": 1.0, "train_accuracy": 0.4, "train_loss": 1.1,
        "num_examples": 10, "sampled": 6, "included": (1, 2, 3, 4), "dropped": {"ShareKeys": 2}, "clipped": 0.25,
        "bytes_up": 1000, "bytes_down": 2000, "model_bytes": 500, "seconds": 1.5, "training_seconds": 1.0,
        "server_seconds": 0.1, "client_seconds": 0.1, "ring_difference": 0, "aborted": None, "refused": {},
        "held_out_accuracy": None, "held_out_loss": None, "held_out_examples": 0, "held_out_aborted": None,
        "phases": {}, "noise": 0.001, "clipped_tensors": {}, "clipped_weights": None,
        "metrics": {}, "train_metrics": {}, "held_out_metrics": {},
    }  # fmt: skip
    return RoundRecord(**values | changes)


def shown(*records: RoundRecord, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200)
    with TrainingDisplay(console, tiny_config()) as display:
        display.round_started(0)
        display.on_progress("secure", Round.SHARE_KEYS, 3, 6)
        display.round_done(list(records))
    return file.getvalue()


def test_a_rounds_line_tells_survivors_bytes_seconds_and_who_vanished_where() -> None:
    # Versions of rich differ in where they break the line.
    line = " ".join(shown(make_record(), make_record(aggregator="plain", accuracy=0.625)).split())
    for words in ("round 1/3", "accuracy 50.00%", "plain 62.50%", "4 of 6 in the sum", "up 1 kB", "down 2.5 kB",
                  "1.5 s", "25.00% clipped"):  # fmt: skip
        assert words in line
    assert line.endswith(" vanished: 2 in ShareKeys")


def test_an_aborted_round_is_reported_to_leave_the_model() -> None:
    text = shown(make_record(aborted="aborted in Unmasking: why (needed 4, had 1)", included=(), clipped=None))
    assert "the model stays as it was: aborted in Unmasking: why (needed 4, had 1)" in text
    assert "clipped" not in text


def test_a_terminal_gets_bars() -> None:
    text = shown(make_record(), terminal=True)
    assert "rounds" in text
    assert "secure: ShareKeys" in text
    assert "3/6" in text


def test_the_closing_table_counts_every_byte_over_plain() -> None:
    records = [
        make_record(number, included=tuple(range(count)), aborted=aborted, accuracy=0.3 * number, bytes_up=1000,
                    bytes_down=200, model_bytes=100, seconds=0.75)
        for number, count, aborted in ((1, 5, None), (2, 0, "why"), (3, 4, None))
    ] + [
        make_record(number, aggregator="plain", included=tuple(range(count)), accuracy=0.31 * number, bytes_up=500,
                    bytes_down=50, model_bytes=100, ring_difference=None, clipped=None)
        for number, count in ((1, 5), (2, 6), (3, 4))
    ]  # fmt: skip
    summary = summarize(tiny_config(compare=True), records, None)
    file = io.StringIO()
    Console(file=file, width=120).print(summary_table(summary))
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in file.getvalue().splitlines() if "│" in line
    ]
    table = {row[0]: row[1:] for row in rows}
    assert table["test accuracy"] == ["90.00%", "93.00%"]
    assert table["clients in the sum, by round"] == ["0 to 5", "4 to 6"]
    assert table["aborted rounds"][0] == "1"
    assert table["sent by all clients"] == ["3 kB", "1.5 kB"]
    assert table["received by all clients"] == ["900 B", "450 B"]
    assert table["seconds"][0] in ("2.2", "2.3")
    assert table["largest clipped share of a round"][0] == "25.00%"
    assert table["secure sum less plain sum, in the ring"][0] == "0"
    assert "1.95 kB more (2.00 times)" in table["bytes over plain"][0]


@pytest.mark.usefixtures("tiny_data")
def test_a_model_that_is_not_kept_is_reported_as_lost(tmp_path: Path) -> None:
    said = "the model is not kept: give --out DIR to keep it"
    assert invoke("train", *SMALL).stdout.endswith(f"{said}\n")
    assert said not in invoke("train", *SMALL, "--out", tmp_path / "run").stdout
