"""The README's Python is run as it stands there: what it shows works."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_blocks_run_in_order(capsys) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)  # noqa: S102 - our own README
    assert "included=" in capsys.readouterr().out


def test_the_files_that_it_points_to_are_there() -> None:
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).is_file(), link
