"""Additions to pytest-benchmark: smaller sizes, further rows, and machine data without its owner's names.

A benchmark that measures many things at once adds them by the fixture `record`, as ``extra_info["rows"]``.
"""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import machine, results
from benchmarks.results import Entry


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="measure smaller sizes")


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.describe()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    output_json["mode"] = "quick" if config.getoption("--quick") else "full"


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Return whether --quick was given."""
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def record(benchmark: Any) -> Callable[[Entry], None]:
    """Return a function that adds an entry to the benchmark's."""
    rows: list[Entry] = benchmark.extra_info.setdefault("rows", [])
    return lambda entry: rows.append(results.checked(entry))
