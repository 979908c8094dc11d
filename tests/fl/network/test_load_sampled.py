"""The script that measures a sampled population reports what happened, at a size that takes seconds."""

import argparse

import pytest

from tests.fl.network.load_sampled import measure

pytestmark = pytest.mark.live


def test_a_small_population(tmp_path):
    asked = argparse.Namespace(
        enrolled=24, present=20, sample=12, over_select=1.1, rounds=1, model="logistic", processes=1
    )
    found = measure(tmp_path, asked)
    assert found["asked"] == [14]
    # Of 14 invited clients the first 12 are enough, and two may vanish.
    assert 12 <= found["included"][0] <= 14
    assert found["server CPU s"] > 0
    assert found["server peak MB"] > 0
