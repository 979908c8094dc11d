"""Ray on this machine for these tests; without it they are skipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from fl.engines.ray.cluster import RayCluster

collect_ignore_glob = []
if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_on_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """Start Ray with two cores."""
    torch.set_num_threads(1)
    from fl.engines.ray.cluster import connected

    with connected(workers=2) as cluster:
        yield cluster
