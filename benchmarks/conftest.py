"""What the benchmarks add to pytest-benchmark: smaller sizes, further rows, and a machine without its owner's names.

A benchmark that measures many things at once adds them by the fixture `record`; they are ``extra_info["rows"]``.
"""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import machine, results
from benchmarks.results import Entry


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="smaller sizes")


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.describe()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    output_json["mode"] = "quick" if config.getoption("--quick") else "full"


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Return whether smaller sizes are asked for."""
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def record(benchmark: Any) -> Callable[[Entry], None]:
    """Add an entry to those of the benchmark."""
    rows: list[Entry] = benchmark.extra_info.setdefault("rows", [])
    return lambda entry: rows.append(results.checked(entry))
