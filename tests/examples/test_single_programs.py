"""The examples of one program each do what they say."""

import ast
import io
import re
import tokenize

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from fl.report.extras import load_personalization
from tests.examples.programs import EXAMPLES, run
from tests.fl.runs import invoke

pytestmark = pytest.mark.live


def test_three_clients_give_the_sum_of_the_two_that_stay(tmp_path) -> None:
    finished = run("three_clients.py", folder=tmp_path)
    assert (finished.returncode, finished.stdout.decode(), finished.stderr) == (0, "(0, 1) [11 22 33 44]\n", b"")


def test_three_clients_take_thirty_lines() -> None:
    source = (EXAMPLES / "three_clients.py").read_text()
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        and token.string
        for line in range(token.start[0], token.end[0] + 1)
    }
    docstring = ast.parse(source).body[0]
    assert len(lines - set(range(docstring.lineno, docstring.end_lineno + 1))) <= 30


def test_the_histograms_are_those_of_the_hospitals_that_stayed(tmp_path) -> None:
    finished = run("histograms.py", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, b"")
    shown = finished.stdout.decode()
    # Which hospitals stayed follows from the example's seeds. Everything else is counted again here.
    included, invited = map(int, re.match(r"(\d+) of (\d+) hospitals", shown).groups())
    assert included < invited == 20
    rows = np.array([line.split()[-2:] for line in shown.splitlines() if " to " in line], dtype=int)
    records = load_breast_cancer()
    hospitals = np.random.default_rng(0).integers(20, size=len(records.target))
    edges = np.arange(5, 31, 2.5)
    everyone = [np.histogram(records.data[records.target == code, 0], edges)[0] for code in (0, 1)]
    assert (rows <= np.transpose(everyone)).all()
    missing = len(records.target) - rows.sum()
    sizes = np.bincount(hospitals)
    assert missing in {sizes[i] + sizes[j] for i in range(20) for j in range(i)}
    assert f"mean radius {records.data[:, 0].mean():.0f}" in shown


def test_each_client_of_a_run_gets_its_own_model(tmp_path) -> None:
    options = ["--clients", 6, "--rounds", 2, "--epochs", 1, "--partition", "dirichlet", "--holdout", 0.2]
    trained = invoke("train", "--model", "logistic", *options, "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    finished = run("personal_models.py", tmp_path / "run", folder=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, b"")
    lines = re.findall(r"^(.+): 6 clients gain ([+-][\d.]+) points", finished.stdout.decode(), flags=re.MULTILINE)
    assert [name for name, _ in lines] == ["fine-tuning", "Ditto"]
    # Clients with their own classes: a personal model is better at them.
    assert all(float(gain) > 0 for _, gain in lines)
    methods = load_personalization(tmp_path / "run").methods
    assert [round(float(method.gains.mean()), 1) for method in methods] == [float(gain) for _, gain in lines]
    assert invoke("report", tmp_path / "run").exit_code == 0
    assert "Ditto" in (tmp_path / "run" / "report.html").read_text()


def test_personal_models_are_not_measured_without_held_out_examples(tmp_path) -> None:
    options = ["--model", "logistic", "--clients", 3, "--rounds", 1, "--epochs", 1, "--aggregator", "plain"]
    assert invoke("train", *options, "--out", tmp_path / "run").exit_code == 0
    for folder, said in (("run", "hold no examples out"), ("none", "there is no run")):
        finished = run("personal_models.py", tmp_path / folder, folder=tmp_path)
        assert finished.returncode == 1
        assert said in finished.stderr.decode()
        assert len(finished.stderr.splitlines()) == 1


def test_the_index_lists_every_example() -> None:
    linked = re.findall(r"\]\(([\w.]+)", (EXAMPLES / "README.md").read_text())
    there = {path.relative_to(EXAMPLES).parts[0] for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".md")}
    assert there - {"README.md"} <= set(linked)
