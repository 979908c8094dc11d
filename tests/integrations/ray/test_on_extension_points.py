"""The parts of Ray that this package uses: a release that moves one fails here, by its name."""

from __future__ import annotations

import inspect

import pytest
import ray
import ray.exceptions


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (ray.init, {"address", "num_cpus", "include_dashboard", "log_to_driver", "logging_level"}),
        (ray.wait, {"num_returns", "timeout", "fetch_local"}),
        (ray.get, {"timeout"}),
        (ray.put, set()),
        (ray.shutdown, set()),
        (ray.is_initialized, set()),
        (ray.cluster_resources, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_ray_function_takes_its_given_arguments(function: object, parameters: set[str]) -> None:
    assert callable(function)
    missing = parameters - set(inspect.signature(function).parameters)
    assert not missing, f"Ray {ray.__version__} moved {missing} of {function}: see fl/engines/ray"


def test_tasks_take_cores_and_retries() -> None:
    task = ray.remote(num_cpus=1, max_retries=2)(lambda: None)
    assert callable(task.remote)


def test_rays_exception_for_lost_processes_is_a_ray_error() -> None:
    for name in ("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "ObjectLostError", "RayTaskError"):
        assert issubclass(getattr(ray.exceptions, name), ray.exceptions.RayError), name


def test_the_version_is_one_that_was_tried() -> None:
    major, minor, *_ = (int(part) for part in ray.__version__.split(".")[:2])
    assert (major, minor) >= (2, 55), f"Ray {ray.__version__} is older than the releases that this package supports"
