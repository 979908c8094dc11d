"""The connection to a Ray cluster: an existing one, the host's own, or one started on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError

from fl.errors import ConfigError
from fl.learning.cpu import available_cores

ATTEMPTS = 3
"""Attempts that Ray makes at a task when its process or machine is lost."""


_CONNECT_SECONDS = 10.0

# The address to which `RayCluster.connect` connected this process, and the number of its open objects.
_open: dict[str, int] = {}


class RayCluster:
    """A cluster that this process is connected to.

    Attributes:
        cores: number of tasks that run at the same time.
    """

    def __init__(self, address: str | None) -> None:
        self.cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._address = address
        if address is not None:
            _open[address] = _open.get(address, 0) + 1

    @classmethod
    def connect(cls, address: str | None = None, workers: int | None = None) -> RayCluster:
        """Connect to a cluster. The objects of one process share its connection.

        Args:
            address: as for `ray.init`: ``auto``, ``HOST:6379``, ``ray://HOST:10001``. None: the cluster to which the
                host is already connected, or Ray started on this machine for as long as it is needed.
            workers: number of cores for Ray on this machine; None: all.

        Raises:
            ConfigError: no cluster answers at the address.
        """
        if ray.is_initialized():
            if address in _open or not address:
                return cls(address if address in _open else None)
            raise ConfigError(f"this process is connected to another Ray cluster: leave out the address {address}")
        # Ray sends no usage statistics, unless the user has enabled them.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Output of tasks must not go to our stdout, which may hold JSON.
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address:
                _require_listener(address)
                ray.init(address=address, **quiet)
            else:
                ray.init(address="local", num_cpus=workers or available_cores(), include_dashboard=False, **quiet)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            where = f"at {address}" if address else "on this machine"
            why = str(error).strip().split("\n")[0]
            raise ConfigError(f"no Ray cluster {where}: {why}. Try `ray status`, or another engine") from error
        return cls(address)

    def close(self) -> None:
        """Release the cluster; may be called again. The last object disconnects, and ends Ray if started here."""
        address, self._address = self._address, None
        if address is None or not ray.is_initialized():
            return
        _open[address] -= 1
        if not _open[address]:
            del _open[address]
            ray.shutdown()


@contextmanager
def connected(address: str | None = None, workers: int | None = None) -> Iterator[RayCluster]:
    """Yield a cluster and close it at the end; see `RayCluster.connect`."""
    cluster = RayCluster.connect(address, workers)
    try:
        yield cluster
    finally:
        cluster.close()


def _require_listener(address: str) -> None:
    """Raise OSError or ValueError if no server listens at HOST:PORT, since Ray would try for minutes. Accept "auto"."""
    target = address.removeprefix("ray://")
    if ":" in target:
        parts = urlsplit(f"//{target}")
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_CONNECT_SECONDS).close()
