"""Every claim of the threat model names the tests that hold it, or is marked as a limit; and CI runs these tests."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.formulas import ROOT, THREATS

TESTS = ROOT / "tests"
STATEMENTS, ATTACKS = "Tests of these statements", "Attacks, and what stands against them"

LIMIT = "no test: a limit"
NOT_CLAIMED = ("**nothing**", "**not detected**")
ONE_TEST = r"`([\w/]+/test_\w+\.py)(?:::(test_\w+))?`"

# The targets that CI makes; those with a framework in its own environment name their folder of tests.
MADE = set((ROOT / ".ci/run").read_text(encoding="utf-8").split())
FRAMEWORKS = {
    folder
    for target, folder in re.findall(
        r"^(test-\w+):.*\n\t.*\$\(TESTS\) tests/(\S+)",
        (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", ""),
        re.MULTILINE,
    )
    if target in MADE
}


def table_of(heading: str, text: str = THREATS) -> list[list[str]]:
    """Return the rows of the table below this heading, without its head, as cells."""
    section = re.split(rf"^#+ {re.escape(heading)}\n", text, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]


def named_in(rows: list[list[str]]) -> set[tuple[str, str]]:
    """Return the named files below `tests/`, each with a function, or with "" for all of its functions."""
    return {test for row in rows for test in re.findall(ONE_TEST, row[-1])}


@cache
def functions_of(path: Path) -> frozenset[str]:
    """Return the tests that a file defines, in classes or not."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(name for name in functions if name.startswith("test_"))


def is_there(file: str, function: str) -> bool:
    path = TESTS / file
    return path.is_file() and (function in functions_of(path) if function else bool(functions_of(path)))


def is_run(file: str) -> bool:
    """Return whether CI runs the test: it runs all; tests that need a framework run only in that target."""
    if "importorskip(" in (TESTS / file).read_text(encoding="utf-8"):
        return any(file.startswith(f"{folder}/") for folder in FRAMEWORKS)
    return {"test", "test-all"} <= MADE


@pytest.mark.parametrize(("heading", "columns"), [(STATEMENTS, 2), (ATTACKS, 3)])
def test_every_claim_names_its_tests_or_is_a_limit(heading: str, columns: int) -> None:
    rows = table_of(heading)
    assert len(rows) > 10
    for row in rows:
        assert len(row) == columns, row
        if row[-1] == LIMIT:
            assert any(words in row[1] for words in NOT_CLAIMED), f"each claim has a test: {row}"
        else:
            assert re.fullmatch(f"{ONE_TEST}(, {ONE_TEST})*", row[-1]), row


@pytest.mark.parametrize(("file", "function"), sorted(named_in(table_of(STATEMENTS) + table_of(ATTACKS))))
def test_the_tests_are_there_and_ci_runs_them(file: str, function: str) -> None:
    assert is_there(file, function)
    assert is_run(file)


def test_every_numbered_statement_has_its_tests() -> None:
    numbered = re.findall(r"^(\d+\. )\*\*(.+?)\.?\*\*", THREATS, flags=re.MULTILINE)
    assert len(numbered) == 5
    named = [row[0] for row in table_of(STATEMENTS)]
    assert [name for name in named if name[0].isdigit()] == [number + title for number, title in numbered]


def test_missing_tests_would_be_noticed() -> None:
    assert not is_there("adversarial/test_isolation.py", "test_of_something_else")
    assert not is_there("adversarial/test_nothing.py", "")
    assert {"integrations/flower", "integrations/nvflare"} < FRAMEWORKS
    assert table_of("A", "## A\n\n| a | b |\n|---|---|\n| c | d |\n\n## B\n\n| e | f |\n") == [["c", "d"]]
    assert named_in([["`x/test_x.py::test_1`", "`a/test_b.py::test_c`, `d/test_e.py`"]]) == {
        ("a/test_b.py", "test_c"),
        ("d/test_e.py", ""),
    }
