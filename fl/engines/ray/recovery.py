"""The server's recovery of the masks on the machines of a Ray cluster.

Security: the parts of a job hold the seeds of masks that are in the sum. They go through Ray's network and object
store: the cluster must be the server's alone, and its machines' traffic encrypted (``RAY_USE_TLS=1``) or on wires that
nobody else has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import ray
from ray.exceptions import RayError

from fl.engines.ray.cluster import ATTEMPTS, RayCluster
from fl.engines.ray.tasks import recover_part
from fl.learning.cpu import available_cores
from secagg import MaskSum, UnmaskJob

# What one core takes about, in seconds, to find out whether a job is worth a cluster.
_SECONDS_PER_AGREEMENT = 50e-6
_SECONDS_PER_ELEMENT = 5e-10
_WORTH_SENDING = 0.1


class RayRecovery:
    """Runs jobs on all cores of a cluster; a `transport.MaskRecovery`. Small jobs stay here.

    A part whose process or machine is lost is begun anew by Ray, and at last done here.

    Args:
        cluster: the server's machines.
        observer: called with the number of parts that are done, and of all parts.
    """

    def __init__(self, cluster: RayCluster, observer: Callable[[int, int], None] | None = None) -> None:
        self._cluster = cluster
        self._observer = observer
        self._recover = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(recover_part)

    def run(self, job: UnmaskJob) -> MaskSum:
        """The sum of the job's masks, for `Server.finish`."""
        if _seconds(job) < _WORTH_SENDING:
            return job.run(available_cores())
        parts = job.split(self._cluster.cores)
        # Added as they arrive: two vectors in memory, however many parts.
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
