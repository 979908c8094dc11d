"""The resources of each engine, and what a user is told before the first round."""

from __future__ import annotations

import importlib.util

import pytest

from fl.config.run_config import ENGINES
from fl.engines import Resources, open_engine
from fl.errors import ConfigError
from tests.fl.engines.workers import make_worker
from tests.fl.runs import assert_refused, invoke


@pytest.mark.parametrize(
    ("engine", "resources", "complaint"),
    [
        ("serial", Resources(workers=0), "workers must be at least 1, not 0"),
        ("processes", Resources(workers=-1), "workers must be at least 1, not -1"),
        ("processes", Resources(address="auto"), "use the engine ray, not processes"),
        ("ray", Resources(workers=2, address="auto"), "leave out workers"),
        ("serial", Resources(workers=-1, address="auto"), "workers must be .*; an address is"),
    ],
)
def test_resources_that_an_engine_cannot_use_are_refused(engine: str, resources: Resources, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        open_engine(engine, make_worker(), resources)


def test_an_unknown_engine() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'spark'"):
        open_engine("spark", make_worker())
    assert_refused(invoke("train", "--engine", "spark"), "spark", *ENGINES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "serial", "--workers", 0), "workers must be at least 1, not 0"),
        (("--address", "auto"), "use the engine ray, not serial"),
        (("--engine", "batched", "--optimizer", "adam"), "train with sgd, not adam"),
        (("--threads", -1), "threads must be between 1 and 1024, not -1"),
    ],
)
def test_the_command_line_refuses_in_one_line(options: tuple[object, ...], said: str) -> None:
    assert_refused(invoke("train", "--dataset", "digits", *options), said)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_user_is_told_how_to_install_it() -> None:
    assert_refused(invoke("train", "--dataset", "digits", "--engine", "ray"), "pip install '.[ray]'")


def test_threads_are_a_property_of_the_run() -> None:
    assert make_worker().threads == 1
    assert make_worker(threads=3).threads == 3
