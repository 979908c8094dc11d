"""The first pages' Python runs as it stands, block after block, and prints what the page shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("page", "outputs"), [("README.md", 1), ("docs/quickstart.md", 3), ("docs/tutorial.md", 5)])
def test_the_code_prints_what_the_page_shows(page: str, outputs: int) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert sum(bool(shown) for _, shown in blocks) == outputs
    torch.manual_seed(3)  # as if other tests had run before: the page must print the same
    namespace: dict[str, object] = {}
    for code, shown in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(code, page, "exec"), namespace)  # noqa: S102 - our own page
        assert said.getvalue() == shown
