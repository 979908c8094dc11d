"""The connection to a Ray cluster: an existing one, the host's own, or one that is started on this machine."""

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
"""How often Ray begins a task whose process or machine is lost over it."""


_CONNECT_SECONDS = 10.0

# To which address this process is connected by `RayCluster.connect`, and how many of its objects are open.
_open: dict[str, int] = {}


class RayCluster:
    """A cluster that this process is connected to.

    Attributes:
        cores: how many tasks run at the same time.
    """

    def __init__(self, address: str | None) -> None:
        self.cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._address = address
        if address is not None:
            _open[address] = _open.get(address, 0) + 1

    @classmethod
    def connect(cls, address: str = "", workers: int = 0) -> RayCluster:
        """Connect; objects of one process share its connection.

        Args:
            address: what `ray.init` takes: ``auto``, ``HOST:6379``, ``ray://HOST:10001``. Empty: the cluster that the
                host is connected to already, or Ray started on this machine for as long as it is needed.
            workers: cores of Ray on this machine; 0: all.

        Raises:
            ConfigError: nobody answers there.
        """
        if ray.is_initialized():
            if address in _open or not address:
                return cls(address if address in _open else None)
            raise ConfigError(f"this process is connected to another Ray cluster: leave out the address {address}")
        # Nobody is told that Ray runs here, unless they have said so themselves.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # What tasks print does not belong on our stdout, which may have to be JSON.
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
        """Give the cluster up; may be called again. The last object disconnects, and ends what was started here."""
        address, self._address = self._address, None
        if address is None or not ray.is_initialized():
            return
        _open[address] -= 1
        if not _open[address]:
            del _open[address]
            ray.shutdown()


@contextmanager
def connected(address: str = "", workers: int = 0) -> Iterator[RayCluster]:
    """A cluster, for the time of the context; see `RayCluster.connect`."""
    cluster = RayCluster.connect(address, workers)
    try:
        yield cluster
    finally:
        cluster.close()


def _require_listener(address: str) -> None:
    """OSError or ValueError if nobody listens at HOST:PORT: Ray itself would try for minutes. "auto" passes."""
    target = address.removeprefix("ray://")
    if ":" in target:
        parts = urlsplit(f"//{target}")
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_CONNECT_SECONDS).close()
