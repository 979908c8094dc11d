"""The README's links lead to files; tests/docs/test_pages_run.py runs its Python."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_files_that_it_points_to_are_there() -> None:
    links = re.findall(r"\]\(((?!http)[^)]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).is_file(), link
