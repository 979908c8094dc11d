"""docs/how-to/training.md names existing options, with their true defaults."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from fl.commands.app import app
from fl.config.config_file import read_config_file
from fl.config.run_config import RunConfig
from fl.learning.settings import SERVER_OPTIMIZERS
from tests.fl.runs import assert_refused, invoke

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "training.md").read_text(encoding="utf-8")


def test_every_option_is_one_of_secagg_train() -> None:
    named = set(re.findall(r"--[a-z][a-z0-9-]+", TEXT)) - {"--config"}
    assert len(named) > 20
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    assert named <= {option for parameter in train.params for option in parameter.opts}


@pytest.mark.slow
def test_its_commands_on_the_digits_are_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^\$ secagg (.*--dataset digits.*)$", TEXT, flags=re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        result = invoke(*shlex.split(line), "--rounds", 1, "--json")
        assert result.exit_code == 0, result.output


def test_the_rates_of_the_servers_rules_are_those_by_default() -> None:
    table = TEXT[TEXT.index("| rule |") : TEXT.index("The adaptive rules")]
    found = {
        name: float(row.rpartition("|")[0].rpartition("|")[2])
        for row in table.strip().splitlines()[2:]
        for name in re.findall(r"`(fed\w+)`", row.split("|")[1])
    }
    defaults = {name: RunConfig.of(server_optimizer=name).server.rate for name in SERVER_OPTIMIZERS}
    assert found == defaults


def test_the_settings_files_on_the_pages_are_read(tmp_path: Path) -> None:
    pages = Path(__file__).parents[2] / "docs" / "how-to"
    path = tmp_path / "settings.toml"
    (training,) = re.findall(r"```toml\n(.*?)```", (pages / "own-models.md").read_text(encoding="utf-8"), re.DOTALL)
    path.write_text(training)
    assert RunConfig.of(**read_config_file(path)).server.optimizer == "fedadam"
    (served,) = re.findall(r"```toml\n(.*?)```", (pages / "deployment.md").read_text(encoding="utf-8"), re.DOTALL)
    path.write_text(served)
    # After all names and values in it.
    assert_refused(invoke("serve", "--config", path), "give --out")
