"""Training and protocol work of clients, and recovery of masks, on a Ray cluster. Only this package imports ray.

`secagg train --engine ray` uses it. Other hosts can run the server's jobs with `RayRecovery` alone::

    with fl.engines.ray.cluster.connected() as cluster:
        server.finish(fl.engines.ray.recovery.RayRecovery(cluster).run(event.job))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fl.errors import ConfigError

if TYPE_CHECKING:
    from fl.engines import Resources
    from fl.engines.local_worker import LocalWorker
    from fl.engines.ray.engine import RayEngine


def require_ray(what: str = "the engine ray needs") -> None:
    """Raise ConfigError, with how to install it, if Ray is missing."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what} Ray: pip install '.[ray]' in the repository's folder") from error


def open_ray_engine(worker: LocalWorker, resources: Resources) -> RayEngine:
    """Open the engine on a cluster or on Ray started here; ConfigError if Ray is missing or not reachable."""
    require_ray()
    from fl.engines.ray.cluster import RayCluster
    from fl.engines.ray.engine import RayEngine

    return RayEngine(worker, RayCluster.connect(resources.address, resources.workers))
