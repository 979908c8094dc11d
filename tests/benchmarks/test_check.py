"""The regression check passes unchanged costs, and fails slower or longer ones."""

import json
from typing import Any

import pytest

from benchmarks import check
from benchmarks.bench_communication import parameters
from benchmarks.case import Case
from benchmarks.cases import masked_add
from benchmarks.neighborhood import Peers, traffic
from secagg import masking

pytestmark = pytest.mark.slow

FLOORS = json.loads(check.FLOORS.read_text(encoding="utf-8"))
MASKED_ADD = masked_add(64, 32)


def limit_of(case: Case) -> float:
    return FLOORS["ratios"][case.id]["limit"]


def test_every_case_has_a_limit_that_half_the_speed_would_break():
    assert {case.id for case in check.CASES} == set(FLOORS["ratios"])
    for case in check.CASES:
        typical, limit = FLOORS["ratios"][case.id]["typical"], limit_of(case)
        assert typical < limit < 2 * typical if case.costs else typical / 2 < limit < typical


def test_the_masked_add_passes():
    assert check.check_ratio(MASKED_ADD, limit_of(MASKED_ADD)).passed


def test_a_masked_add_of_twice_the_work_is_caught(monkeypatch):
    original = masking.accumulate

    def twice(vector, masks):
        original(vector.copy(), masks)
        original(vector, masks)

    monkeypatch.setattr(masking, "accumulate", twice)
    verdict = check.check_ratio(MASKED_ADD, limit_of(MASKED_ADD))
    assert not verdict.passed
    assert "attempt 3" in verdict.found
    assert f"REGRESSION: {MASKED_ADD.id}" in check.report([verdict])


class FakeCase:
    """A case that finds the given ratios, one in each measurement."""

    id = "fake"

    def __init__(self, *found: float, costs: bool = False) -> None:
        self.costs = costs
        self.found = list(found)

    def measure(self) -> float:
        return self.found.pop(0)

    def value(self, measured: float) -> float:
        return measured


def test_a_ratio_that_fails_once_is_measured_again():
    case = FakeCase(0.3, 0.6, 0.1)
    verdict = check.check_ratio(case, 0.5)
    assert verdict.passed
    assert case.found == [0.1]


def test_a_ratio_that_fails_three_times_is_a_regression():
    verdict = check.check_ratio(FakeCase(0.3, 0.2, 0.4), 0.5)
    assert not verdict.passed
    assert verdict.found.startswith("0.400")


def test_a_cost_must_stay_below_its_limit():
    assert check.check_ratio(FakeCase(1.2, costs=True), 1.3).passed
    assert not check.check_ratio(FakeCase(1.4, 1.5, 1.6, costs=True), 1.3).passed


def sparse_row(more: int = 0) -> dict[str, Any]:
    """Return the current cost of a sparse neighbourhood, or a slightly different one."""
    (row,) = [row for row in FLOORS["bytes"] if (row["clients"], row["graph"]) == (1024, "sparse")]
    found = traffic(parameters(row["clients"], row["elements"], row["graph"]), Peers(row["peers"])).total
    return {**row, "bytes": found + more}


def test_bytes_are_met_exactly():
    peers = Peers(sparse_row()["peers"])
    assert check.check_bytes(sparse_row(), peers).passed
    assert not check.check_bytes(sparse_row(-1), peers).passed
    assert not check.check_bytes(sparse_row(1), peers).passed


@pytest.mark.parametrize(("more", "code"), [(0, 0), (1, 1)])
def test_the_exit_code_says_it(monkeypatch, tmp_path, capsys, more, code):
    floors = {"ratios": {}, "bytes": [sparse_row(more)]}
    path = tmp_path / "floors.json"
    path.write_text(json.dumps(floors), encoding="utf-8")
    monkeypatch.setattr(check, "FLOORS", path)
    monkeypatch.setattr(check, "run", lambda floors, run=check.run: run(floors, ()))
    assert check.main([]) == code
    assert ("REGRESSION: bytes-clients=1024" in capsys.readouterr().out) == bool(code)
