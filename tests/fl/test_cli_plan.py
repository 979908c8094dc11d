"""`secagg plan`, and the program before any command: parameters with reasons, or every reason why not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from fl.data import DATASETS
from fl.learning.models import MODELS
from tests.fl.runs import REPOSITORY, assert_refused, command, environment, invoke, run_process


def plan_json(*options: object) -> dict[str, Any]:
    result = invoke("plan", "--json", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def refusal_json(*options: object) -> tuple[list[str], str]:
    """Return the reasons in the JSON object on stdout, and stderr's text."""
    result = invoke("plan", "--json", *options)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert len(result.stdout.splitlines()) == 1
    values = json.loads(result.stdout)
    assert set(values) == {"error", "reasons"}
    for reason in values["reasons"]:
        assert reason in values["error"]
        assert reason in result.stderr
    return values["reasons"], result.stderr


COMPLETE = ("--graph", "complete")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--clients", 100, "--dropout", 0.1, *COMPLETE), {"num_clients": 100, "threshold": 51, "degree": 99}),
        (("--clients", 100, "--dropout", 0.1, "--corrupt", 0.1, *COMPLETE), {"threshold": 67, "degree": 99}),
        (("--clients", 2), {"num_clients": 2, "threshold": 2, "degree": 1}),
        (("--clients", 3), {"threshold": 2, "degree": 2}),
        (("--clients", 500, "--threshold", 334), {"threshold": 334, "degree": 499}),
        # The paper's bound for n inputs below 2^bits: n (2^bits - 1) + 1 values.
        (("--clients", 100), {"value_bits": 16, "ring_bits": 23}),
        (("--clients", 128, "--value-bits", 1), {"value_bits": 1, "ring_bits": 8}),
        (("--clients", 127, "--value-bits", 1), {"value_bits": 1, "ring_bits": 7}),
        (("--clients", 10, "--value-bits", 8, "--max-weight", 100), {"value_bits": 15, "ring_bits": 19}),
        (("--clients", 7, "--length", 123), {"vector_length": 123}),
        (("--clients", 100, "--dropout", 0.29, *COMPLETE), {"expected_dropouts": 29, "spare_clients": 20}),
        (("--clients", 100, "--corrupt", 0.33), {"corrupt_clients": 33}),
    ],
)
def test_the_plan_in_json_has_the_protocols_numbers(options: tuple[object, ...], expected: dict[str, int]) -> None:
    values = plan_json(*options)
    assert {name: values[name] for name in expected} == expected
    assert values["adversary"] == "honest-but-curious"
    assert all(isinstance(reason, str) for reason in values["reasons"])
    assert len(values["reasons"]) >= 3


def test_the_plan_for_people_shows_the_numbers_and_the_reasons() -> None:
    result = invoke("plan", "--clients", 100, "--dropout", 0.1, "--length", 1_000_000, *COMPLETE)
    assert result.exit_code == 0
    assert result.stderr == ""
    rows = [line for line in result.stdout.splitlines() if "│" in line]
    for name, value in (
        ("graph", "complete"),
        ("threshold", "51"), ("degree", "99"), ("ring bits", "23"), ("value bits", "16"), ("vector length", "1,000,000")
    ):  # fmt: skip
        assert any(name in row and value in row for row in rows), (name, result.stdout)
    for reason in plan_json("--clients", 100, "--dropout", 0.1, "--length", 1_000_000, *COMPLETE)["reasons"]:
        assert f"- {reason}" in result.stdout.splitlines()


def test_every_reason_is_given_without_a_plan() -> None:
    reasons, stderr = refusal_json(
        "--clients", 100, "--dropout", 0.6, "--corrupt", 0.4, "--adversary", "gods", "--graph", "tree",
        "--value-bits", 64, "--length", 0,
    )  # fmt: skip
    for words in (
        "adversary 'gods'",
        "graph 'tree'",
        "40 corrupt clients of 100, but at most 33",
        "60 of 100 clients are expected to vanish and 40 to remain, 27 fewer than the threshold 67",
        "needs 71 bits, 7 more",
        "vector_length is 0",
    ):
        assert sum(words in reason for reason in reasons) == 1, words
    assert len(reasons) == 6
    # One line for each reason, below a heading line.
    assert len(stderr.splitlines()) == 7
    assert stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--clients", 1), "num_clients is 1"),
        (("--clients", 0), "num_clients is 0"),
        (("--clients", -5), "num_clients is -5"),
        (("--clients", 10**12), "num_clients"),
        (("--clients", 10, "--dropout", 1.5), "dropout is 1.5"),
        (("--clients", 10, "--dropout", -0.1), "dropout is -0.1"),
        (("--clients", 10, "--dropout", "nan"), "dropout is nan"),
        (("--clients", 10, "--corrupt", 1), "corrupt is 1.0"),
        (("--clients", 10, "--value-bits", 0), "value_bits is 0"),
        (("--clients", 10, "--value-bits", 65), "value_bits is 65"),
        (("--clients", 10, "--max-weight", 0), "max_weight is 0"),
        (("--clients", 10, "--threshold", 5), "threshold 5 is below the 6 that is safe"),
        (("--clients", 10, "--threshold", 11), "11"),
        (("--clients", 10, "--threshold", -1), "threshold is -1"),
        (("--clients", 10, "--length", 0), "vector_length is 0"),
        (("--clients", 10, "--length", 10**12), "a masked input would be 2500000000000 bytes"),
        (("--clients", 10, "--adversary", "gods"), "known are honest-but-curious"),
        (("--clients", 10, "--graph", ""), "known are auto, complete, sparse"),
    ],
)
def test_an_impossible_number_is_refused_by_its_name(options: tuple[object, ...], said: str) -> None:
    reasons, _ = refusal_json(*options)
    assert any(said in reason for reason in reasons), reasons


def test_a_single_reason_is_a_single_line() -> None:
    assert_refused(invoke("plan", "--clients", 100, "--dropout", 0.6, *COMPLETE), "60 of 100 clients")


@pytest.mark.parametrize("option", ["--value-bits", "--max-weight", "--length", "--clients", "--threshold"])
def test_a_number_of_any_size_is_refused_at_once(option: str) -> None:
    """The number is not computed first: 2 to the power of a number with 14 digits fits no memory."""
    options = {"--clients": 10, option: 10**14}
    refusal_json(*(word for pair in options.items() for word in pair))


@pytest.mark.parametrize("words", ["[/red]", "[bold]", "[not a tag", "\\"])
def test_the_users_text_is_shown_unchanged(words: str) -> None:
    """Brackets are markup to the console that prints the message."""
    assert_refused(invoke("plan", "--clients", 10, "--adversary", words), repr(words))


@pytest.mark.parametrize(
    "arguments",
    [("plan",), ("plan", "--clients", "many"), ("plan", "--clients", "2.5"), ("plan", "--what"), ("fly",)],
)
def test_wrong_usage_is_explained_on_stderr(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage:" in result.stderr
    assert "Traceback" not in result.stderr


# Modules that take seconds to import, and that only training needs.
HEAVY = {"torch", "sklearn", "scipy", "matplotlib", "pooch", "safetensors", "fl.learning.training", "fl.runs.rounds"}


@pytest.mark.live
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--help",), "train"),
        (("train", "--help"), "--aggregator"),
        (("plan", "--clients", "40", "--json"), '"threshold": 21'),
    ],
)
def test_help_and_plans_do_not_wait_for_torch(arguments: tuple[str, ...], words: str) -> None:
    program = [sys.executable, "-X", "importtime", *command()[1:]]
    result = subprocess.run(  # noqa: S603 - our own program
        [*program, *arguments], capture_output=True, text=True, timeout=60, cwd=REPOSITORY, env=environment()
    )
    assert result.returncode == 0
    assert words in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert "secagg" in imported
    assert not imported & HEAVY


@pytest.mark.live
def test_a_plan_that_fails_in_a_separate_process() -> None:
    result = run_process("plan", "--clients", 100, "--dropout", 0.6, "--corrupt", 0.4, "--json")
    assert result.returncode == 1
    assert len(json.loads(result.stdout)["reasons"]) == 2
    assert len(result.stdout.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_the_help_lists_commands_as_a_newcomer_needs_them() -> None:
    lines = invoke("--help").stdout.splitlines()
    listed = [line.split()[1] for line in lines if line.startswith("│ ") and line[2:3].isalpha()]
    assert listed[:2] == ["train", "report"]
    assert listed[-2:] == ["serve", "join"]


def test_the_help_says_what_is_chosen_by_default() -> None:
    """Square brackets are markup to the help's printer: their content must not be lost."""
    result = subprocess.run(  # noqa: S603 - our own program
        command("train", "--help"),
        capture_output=True, text=True, timeout=60, cwd=REPOSITORY, env={**environment(), "COLUMNS": "200"},
    )  # fmt: skip
    help_text = " ".join(result.stdout.replace("│", " ").split())
    for words in ("default: all", "default: any", "default: small-cnn for digits", "else iid", "for a ring of 32"):
        assert words in help_text, words
    assert {*MODELS, *DATASETS} <= set(re.split("[ ,]+", help_text))


def test_a_lean_installation_is_told_what_to_install() -> None:
    """Without the packages of the `fl` extra the console script names the missing package and the remedy."""
    script = "import sys; sys.modules['typer'] = None; from fl.__main__ import main; main()"
    result = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=REPOSITORY
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "secagg: the command line needs typer; install it with: pip install '.[fl]' in the repository's folder"
    ]
