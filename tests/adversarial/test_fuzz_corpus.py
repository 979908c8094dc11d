"""The fuzzer's seeds and its former findings, run without the fuzzer."""

from pathlib import Path

import pytest

from fuzz import corpus
from fuzz.harnesses import HARNESSES

FOLDER = Path(corpus.__file__).parent / "corpus"


@pytest.mark.parametrize("name", HARNESSES)
def test_nothing_in_the_corpus_breaks_a_promise(name):
    inputs = sorted((FOLDER / name).iterdir())
    assert inputs
    for path in inputs:
        HARNESSES[name](path.read_bytes())


def test_seeds_written_anew_are_few_and_break_nothing(tmp_path):
    assert corpus.write(tmp_path) < 200_000
    for name, harness in HARNESSES.items():
        for path in (tmp_path / name).iterdir():
            harness(path.read_bytes())
