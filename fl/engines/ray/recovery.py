"""The server's recovery of masks on the machines of a Ray cluster.

Security: the parts of a job hold the seeds of masks that are in the sum, and pass through Ray's network and object
store. So the cluster must belong to the server alone, and its traffic must be encrypted (``RAY_USE_TLS=1``) or on a
private network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ray
from ray.exceptions import RayError

from fl.engines.ray.cluster import ATTEMPTS, RayCluster
from fl.engines.ray.tasks import recover_part
from fl.learning.cpu import available_cores
from secagg import MaskSum, UnmaskJob

# Rough cost on one core, in seconds, to decide whether a job is worth a cluster.
_SECONDS_PER_AGREEMENT = 50e-6
_SECONDS_PER_ELEMENT = 5e-10
_WORTH_SENDING = 0.1


class RayRecovery:
    """A `transport.MaskRecovery` that runs jobs on all cores of a cluster. Small jobs run in this process.

    If a part's process or machine is lost, Ray tries again; after the last attempt the part runs here.

    Args:
        cluster: the server's machines.
        observer: called with the number of finished parts and the number of all parts.
    """

    def __init__(self, cluster: RayCluster, observer: Callable[[int, int], None] | None = None) -> None:
        self._cluster = cluster
        self._observer = observer
        self._recover = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(recover_part)

    def run(self, job: UnmaskJob) -> MaskSum:
        """Return the sum of the job's masks, for `Server.finish`."""
        if _seconds(job) < _WORTH_SENDING:
            return job.run(available_cores())
        parts = job.split(self._cluster.cores)
        # Add parts as they arrive, so that only two vectors are in memory.
        return job.combine(self._results(parts))

    def _results(self, parts: tuple[UnmaskJob, ...]) -> Iterator[MaskSum]:
        waiting = {self._recover.remote(part): part for part in parts}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            part = waiting.pop(done)
            try:
                result: MaskSum = ray.get(done)
            except RayError:
                result = part.run()
            yield result
            if self._observer is not None:
                self._observer(len(parts) - len(waiting), len(parts))


def _seconds(job: UnmaskJob) -> float:
    elements = job.num_masks * job.vector_length
    return job.num_agreements * _SECONDS_PER_AGREEMENT + elements * _SECONDS_PER_ELEMENT
