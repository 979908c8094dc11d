"""Training and protocol work of clients, and recovery of masks, on a Ray cluster. Only this package imports ray.

`secagg train --engine ray` uses it. Other hosts can run the server's jobs with `RayRecovery` alone::

    with fl.engines.ray.cluster.connected() as cluster:
        server.finish(fl.engines.ray.recovery.RayRecovery(cluster).run(event.job))
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fl.errors import ConfigError
from fl.learning.cpu import available_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fl.engines import Resources
    from fl.engines.local_worker import LocalWorker
    from fl.engines.ray.engine import RayEngine
    from fl.engines.ray.recovery import RayRecovery
    from transport.fronts.front import FrontSettings
    from transport.fronts.server import FrontedServer


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


@contextmanager
def fronted_server(
    settings: FrontSettings, count: int, key: str, address: str | None = None
) -> Iterator[tuple[FrontedServer, RayRecovery]]:
    """Yield a server over fronts on a cluster, which are not open yet, and the recovery of masks on the same machines.

    Args:
        settings, count, key: see `fl.engines.ray.fronts.ray_fronts`.
        address: the cluster's address; None: Ray is started on this machine, and ends with this process.

    Raises:
        ConfigError: Ray is missing or not reachable, or has too few cores.
    """
    require_ray("fronts need")
    from fl.engines.ray.cluster import connected
    from fl.engines.ray.fronts import ray_fronts
    from fl.engines.ray.recovery import RayRecovery
    from transport.fronts.server import FrontedServer

    # Ray sets its own handler, which would end this process without a word to the clients.
    handler = signal.getsignal(signal.SIGTERM)
    with connected(address, None if address else max(count, available_cores())) as cluster:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        if cluster.cores < count:
            raise ConfigError(f"{count} fronts need {count} cores, but the Ray cluster has {cluster.cores}")
        yield FrontedServer(ray_fronts(cluster, settings, count, key), settings.limits), RayRecovery(cluster)
