"""The figures on the page are those of the results; needs no Flower."""

import json

from benchmarks.integrations.flower.table import PAGE, RESULTS, page_with


def test_the_page_has_the_figures_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert page == page_with(page, results), "run python -m benchmarks.integrations.flower.table"
    assert {run["mode"] for run in results["runs"]} == {"plain", "secagg", "secagg+"}
