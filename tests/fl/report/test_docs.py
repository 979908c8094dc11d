"""The Python of docs/how-to/report.md runs as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fl.report.source import load_run

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "how-to" / "report.md").read_text()


def test_the_pages_python_works(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained, tmp_path / "runs" / "mnist")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "report.md", "exec"), {})  # noqa: S102 - our own page
    run = load_run(tmp_path / "runs" / "mnist")
    assert [series.name for series in run.series] == ["central", "local"]
    assert run.personalization is not None
    assert run.personalization.what == "writer"
