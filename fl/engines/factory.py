"""The training engines by name."""

from __future__ import annotations

from fl.engines.api import Resources, TrainingEngine
from fl.engines.local_worker import LocalWorker
from fl.errors import ConfigError
from fl.learning.cpu import available_cores


def check_engine(name: str, worker: LocalWorker, resources: Resources) -> None:
    """Raise ConfigError if the engine of that name cannot work here; nothing is started."""
    resources.check(name)
    if name == "batched":
        open_engine(name, worker, resources).close()
    if name == "ray":
        from fl.engines.ray import require_ray

        require_ray()


def open_engine(name: str, worker: LocalWorker, resources: Resources | None = None) -> TrainingEngine:
    """Open the engine of that name (`fl.config.run_config.ENGINES`) for one run; ConfigError if it cannot work here."""
    resources = resources or Resources()
    resources.check(name)
    cores = resources.workers or available_cores()
    # Import an engine only when it is used: Ray takes a second to import, and may not be installed.
    if name == "serial":
        from fl.engines.serial import SerialEngine

        return SerialEngine(worker, cores)
    if name == "processes":
        from fl.engines.processes import ProcessesEngine

        return ProcessesEngine(worker, cores)
    if name == "batched":
        from fl.engines.batched import BatchedEngine

        return BatchedEngine(worker, cores)
    if name == "ray":
        from fl.engines.ray import open_ray_engine

        return open_ray_engine(worker, resources)
    raise ConfigError(f"unknown engine {name!r}")
