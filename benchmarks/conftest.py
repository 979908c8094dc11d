"""Collects what each benchmark measured, writes the results file, and prints one table a group.

A benchmark sets ``benchmark.group`` and puts plain JSON values in ``benchmark.extra_info``; they become one entry
of the results file.  One that measures many rows at once adds them by the fixture ``record``.
"""

import json
from collections.abc import Callable, Generator
from typing import Any

import pytest

from benchmarks import results, summary
from benchmarks.results import Entry


class Collected:
    """What the session's benchmarks came to."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.skipped: list[dict[str, str]] = []


_COLLECTED = pytest.StashKey[Collected]()
_ROWS = pytest.StashKey[list[Entry]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="smaller sizes; results go to results/quick.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COLLECTED] = Collected()


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether smaller sizes are asked for."""
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Entry], None]:
    """Add an entry to the results, if the benchmark passes."""
    rows = request.node.stash.setdefault(_ROWS, [])
    return lambda entry: rows.append(results.checked(entry))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    collected = item.config.stash[_COLLECTED]
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        collected.skipped.append({"name": _plain_name(item.name), "reason": reason})
    elif report.when == "call" and report.passed:
        benchmark = getattr(item, "funcargs", {}).get("benchmark")
        if benchmark is not None and benchmark.stats is not None:
            collected.entries.append(results.checked(_entry(item, benchmark)))
        rows: list[Entry] = item.stash.setdefault(_ROWS, [])
        collected.entries.extend(rows)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    collected = session.config.stash[_COLLECTED]
    if not collected.entries and not collected.skipped:
        return
    mode = "quick" if session.config.getoption("--quick") else "full"
    path = results.path_of(mode)
    document = results.new_document(mode, collected.entries, collected.skipped)
    results.write(path, results.merge(results.read(path), document))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    collected = config.stash[_COLLECTED]
    for group in results.GROUPS:
        entries = [entry for entry in collected.entries if entry["group"] == group]
        if entries:
            terminalreporter.write_sep("=", group)
            terminalreporter.write_line(summary.table(entries))


def _entry(item: pytest.Item, benchmark: Any) -> Entry:
    """pytest-benchmark has no types: ``benchmark`` is its fixture."""
    stats = benchmark.stats.stats
    callspec = getattr(item, "callspec", None)
    return {
        "group": benchmark.group,
        "name": _plain_name(getattr(item, "originalname", item.name)),
        "params": {name: value for name, value in (callspec.params if callspec else {}).items() if _is_plain(value)},
        "seconds": {"median": stats.median, "min": stats.min, "max": stats.max, "rounds": stats.rounds},
        **benchmark.extra_info,
    }


def _plain_name(name: str) -> str:
    return name.removeprefix("bench_").removeprefix("test_")


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
