"""The reference has one place for each exported name, and no other names."""

import re
from collections import Counter
from pathlib import Path

import pytest

import fl
import secagg
import transport

REFERENCE = Path(__file__).parents[2] / "docs/reference"


@pytest.mark.parametrize("package", [fl, secagg, transport], ids=lambda package: package.__name__)
def test_every_exported_name_has_one_place(package) -> None:
    name = package.__name__
    listed = re.findall(rf"^::: {name}\.(\w+)$", (REFERENCE / f"{name}.md").read_text(), flags=re.MULTILINE)
    assert Counter(listed) == Counter(package.__all__)
