"""The clients' part of the protocol in Ray actors, on all cores of the cluster.

Security: actors hold simulated clients with their secrets, which pass through Ray's network and object store; see
`fl.engines.ray.recovery`.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from fl.engines.ray.cluster import RayCluster
from fl.engines.ray.recovery import RayRecovery
from secagg import MaskSum, UnmaskJob
from transport import WorkerLostError
from transport.workers import WorkerObjects

# Seconds of work on one core below which actors cost more than they save.
_WORTH_STARTING = 2.0
_WORTH_SENDING = 0.3


class RayWorkers:
    """`transport.Workers` in one actor for each core of a cluster, from the first large session until `close`."""

    def __init__(self, cluster: RayCluster) -> None:
        self.count = cluster.cores
        self._recovery = RayRecovery(cluster)
        # An actor needs no core of its own: training and actors share all of them, as the system decides.
        self._make = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(WorkerObjects)
        self._actors: dict[int, Any] = {}

    def is_worth(self, seconds: float) -> bool:
        """See `transport.Workers`."""
        return self.count > 1 and seconds >= (_WORTH_SENDING if self._actors else _WORTH_STARTING)

    def start(self) -> None:
        """See `transport.Workers`. If one has ended, all are replaced: the others may be ending too."""
        if len(self._actors) < self.count:
            self.close()
            self._actors = {place: self._make.remote() for place in range(self.count)}

    def call(self, place: int, target: str, argument: object) -> Future[Any]:
        """See `transport.Workers`."""
        result: Future[Any] = Future()
        if (actor := self._actors.get(place)) is None:
            result.set_exception(WorkerLostError("a Ray worker ended, and its clients with it"))
        else:
            answered = actor.outcome.remote(target, argument).future()
            answered.add_done_callback(partial(self._settle, result, place, actor))
        return result

    def run(self, job: UnmaskJob) -> MaskSum:
        """See `transport.Workers`."""
        return self._recovery.run(job)

    def close(self) -> None:
        """End the actors; may be called again."""
        actors, self._actors = self._actors, {}
        for actor in actors.values():
            ray.kill(actor)

    def _settle(self, result: Future[Any], place: int, actor: Any, answered: Future[Any]) -> None:
        try:
            value, error = answered.result()
        except RayError as lost:
            if self._actors.get(place) is actor:
                del self._actors[place]
            reason = str(lost).strip().split("\n")[0]
            value, error = None, WorkerLostError(f"a Ray worker ended ({reason}), and its clients with it")
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)
