"""Open a training engine by its name."""

from __future__ import annotations

from fl.engines.api import Resources, TrainingEngine
from fl.engines.local_worker import LocalWorker
from fl.errors import ConfigError
from fl.learning.cpu import available_cores


def check_engine(name: str, worker: LocalWorker, resources: Resources) -> None:
    """ConfigError if the engine of that name cannot work here, as far as can be told without starting anything."""
    resources.check(name)
    if name == "batched":
        open_engine(name, worker, resources).close()
    if name == "ray":
        from fl.engines.ray import require_ray

        require_ray()


def open_engine(name: str, worker: LocalWorker, resources: Resources | None = None) -> TrainingEngine:
    """The engine of that name (`fl.config.run_config.ENGINES`) for one run. ConfigError if it cannot work here."""
    resources = resources or Resources()
    resources.check(name)
    # Each is loaded by those who use it: Ray alone takes a second, and need not be installed.
    if name == "serial":
        from fl.engines.serial import SerialEngine

        return SerialEngine(worker)
    if name == "processes":
        from fl.engines.processes import ProcessesEngine

        return ProcessesEngine(worker, resources.workers or available_cores())
    if name == "batched":
        from fl.engines.batched import BatchedEngine

        return BatchedEngine(worker)
    if name == "ray":
        from fl.engines.ray import open_ray_engine

        return open_ray_engine(worker, resources)
    raise ConfigError(f"unknown engine {name!r}")
