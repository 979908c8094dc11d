"""The notebook runs unchanged, as in Jupyter inside a running event loop."""

import ast
import asyncio
import inspect
import json
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples/notebook.ipynb"


@pytest.mark.slow
def test_every_cell_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    mpl.use("agg")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] or "import" in "".join(cell["source"]) for cell in cells)
    namespace: dict[str, object] = {"__name__": "__main__"}

    async def run() -> None:
        for cell in cells:
            code = compile("".join(cell["source"]), NOTEBOOK.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if inspect.isawaitable(result := eval(code, namespace)):  # noqa: S307 - our own notebook
                await result

    asyncio.run(run())
    history = namespace["run"].history  # type: ignore[attr-defined]
    assert len(history) == 10
    assert history[-1].accuracy > 0.85
    assert {record.ring_difference for record in history} == {0}
