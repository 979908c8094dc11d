"""The commands and the Python of docs/how-to/report.md are run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from fl.report.source import load_run
from tests.fl.runs import invoke

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "how-to" / "report.md").read_text()


def test_what_it_shows_of_python_works(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained, tmp_path / "runs" / "mnist")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "report.md", "exec"), {})  # noqa: S102 - our own page
    run = load_run(tmp_path / "runs" / "mnist")
    assert [series.name for series in run.series] == ["central", "local"]
    assert run.personalization is not None
    assert run.personalization.what == "writer"


def test_its_commands_have_the_options_that_it_gives_them() -> None:
    lines = re.findall(r"^\$ (secagg .*)$", TEXT, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        name, *words = shlex.split(line, comments=True)[1:]
        known = invoke(name, "--help")
        assert known.exit_code == 0
        for word in words:
            if word.startswith("--"):
                assert word in known.output, line
