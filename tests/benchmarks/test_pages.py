"""The tables in the documentation are made from the committed results; needs none of the frameworks."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import compare_flower, compare_mpc, compare_nvflare, scaling_plan
from benchmarks.blocks import read_results, with_block


@pytest.mark.parametrize(
    ("module", "name", "table"),
    [
        (compare_flower, "flower", compare_flower.table),
        (compare_nvflare, "nvflare", compare_nvflare.table),
        (compare_mpc, "mpc", compare_mpc.tables),
    ],
)
def test_the_page_has_the_figures_of_the_results(
    module: Any, name: str, table: Callable[[dict[str, Any]], str]
) -> None:
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == with_block(page, *module.MARKS, table(read_results(name))), "write the table again, with --table"


def test_the_scaling_guide_has_the_tables_of_the_results() -> None:
    text = scaling_plan.DOCUMENT.read_text(encoding="utf-8")
    assert scaling_plan.with_tables(text) == text, "run `python -m benchmarks.scaling_plan --write`"


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(LookupError, match="<!-- end -->"):
        with_block("<!-- begin -->", "<!-- begin -->", "<!-- end -->", "table")
