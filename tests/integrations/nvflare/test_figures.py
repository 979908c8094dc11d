"""That the guide's figures are the measured ones; needs no NVFlare."""

import json

from benchmarks.integrations.nvflare import table


def test_the_guide_has_the_figures_of_the_results() -> None:
    guide = table.GUIDE.read_text(encoding="utf-8")
    assert table.put_into(guide, json.loads(table.RESULTS.read_text())) == guide


def test_all_methods_were_measured_alike() -> None:
    results = json.loads(table.RESULTS.read_text())
    sizes = {row["parameters"] for row in results["rows"]}
    found = {(row["parameters"], row["method"]) for row in results["rows"]}
    assert found == {(size, method) for size in sizes for method in ("plain", "HE", "secagg")}
    assert len({row["accuracy_after_rounds"] for row in results["rows"]}) == 1
