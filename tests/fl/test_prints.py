"""Printed paths and commands: paths unchanged, and commands that a shell accepts as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer.main
from rich.text import Text

from fl.commands.app import app
from fl.commands.output import open_console
from fl.commands.train import start_training
from fl.runs.display import summary_table
from tests.fl.runs import assert_refused, invoke, tiny_config, use_tiny_data

ODD = "r 1/it's :cancer: [red]"


def copied(text: str, before: str) -> list[str]:
    """Return the words that a shell makes of the text after ``before``, to the end of the line."""
    line = next(line for line in text.splitlines() if before in line)
    return shlex.split(line.partition(before)[2])


def test_the_steps_of_a_new_project_can_be_copied(tmp_path: Path) -> None:
    result = invoke("new", tmp_path / ODD)
    assert result.exit_code == 0, result.output
    assert copied(result.stdout, "now:  ") == ["cd", str(tmp_path / ODD)]
    assert str(tmp_path / ODD / "models.py") in result.stdout.splitlines()


@pytest.mark.slow
def test_paths_of_a_run_are_printed_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_data(monkeypatch)
    folder = tmp_path / ODD
    options = ("--model", "logistic", "--clients", 3, "--rounds", 1, "--epochs", 1, "--tensorboard")
    trained = invoke("train", *options, "--out", folder)
    assert trained.exit_code == 0, trained.output
    assert f"figure {folder / 'accuracy.png'}, model {folder / 'model.safetensors'}" in trained.stdout.splitlines()
    assert copied(trained.stdout, "tensorboard --logdir ") == [str(folder / "tensorboard")]
    again = invoke("train", *options, "--out", folder)
    assert_refused(again, f"--resume {shlex.quote(str(folder))}, ")
    monkeypatch.setattr("fl.report.verdict.make_dataset", lambda name, data_dir=None: None)
    reported = invoke("report", folder, "--tensorboard")
    assert copied(reported.stdout, "tensorboard --logdir ") == [str(folder / "tensorboard")]


def test_the_command_to_resume_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_data(monkeypatch)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fl.runs.rounds.FederatedRun.run_round", interrupted)
    finished = start_training(tiny_config(), tmp_path / ODD, None, open_console())
    assert finished.interrupted
    assert copied(capsys.readouterr().out, "go on with: ") == ["secagg", "train", "--resume", str(tmp_path / ODD)]
    (tmp_path / ODD / "model.safetensors").unlink(missing_ok=True)
    evaluated = invoke("evaluate", tmp_path / ODD)
    assert copied(evaluated.stderr, "go on with ") == ["secagg", "train", "--resume", str(tmp_path / ODD)]


@pytest.mark.parametrize("option", ["--model", "--dataset"])
def test_a_name_between_colons_is_not_an_emoji(option: str) -> None:
    assert_refused(invoke("train", option, "nowhere:cancer:"), "nowhere:cancer:")


def test_the_help_of_each_option_is_shown_as_it_is_written() -> None:
    """rich takes words in square brackets as its own markup, and leaves them out."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    texts = [command.help for command in commands.values()]
    texts += [getattr(param, "help", None) for command in commands.values() for param in command.params]
    assert len(texts) > 200
    assert [text for text in texts if text and str(Text.from_markup(text)) != text] == []


@pytest.mark.parametrize(("counts", "shown"), [([8, 9, 8], "8 to 9"), ([8, 8], "8"), ([], "-")])
def test_a_range_of_counts_is_one_number_where_they_are_equal(counts: list[int], shown: str) -> None:
    summary = {"dataset": "digits", "model": "2nn", "aggregator": "secure", "rounds": 2, "figures": {}}
    summary |= {"included": counts, "aborted": [], "bytes_up": 1, "bytes_down": 1, "seconds": 1.0}
    table = summary_table(summary | {"clipped": None, "noise": None, "epsilon": None})
    assert next(iter(table.columns[1].cells)) == shown
