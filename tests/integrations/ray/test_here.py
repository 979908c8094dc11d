"""A check that the tests of the Ray engine run here at all."""

from __future__ import annotations

import importlib.util

import pytest


def test_ray_is_installed() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed here: make test-ray")
