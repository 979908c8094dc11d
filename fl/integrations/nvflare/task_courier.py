"""A courier over tasks of NVFlare's controller: one task for each site, since each gets a different message."""

import queue
from typing import Any

import numpy as np

from fl.integrations.nvflare import messages
from fl.integrations.nvflare._nvflare import FLContext, FLModel, FLModelUtils, Shareable, Task, logger
from fl.integrations.nvflare.announcement import Scalar, TaskAnnouncement
from fl.integrations.nvflare.server_session import Result
from secagg import Round

_LOG = logger(__name__)


class TaskCourier:
    """A courier that sends through a controller, whose threads deliver the results.

    Args:
        controller: any controller of NVFlare.
        announcement: the round.
        model: the model that sites train, as NVFlare sends it.
        fl_ctx, abort_signal: the run's context and signal.
    """

    def __init__(
        self,
        controller: Any,
        announcement: TaskAnnouncement,
        model: FLModel,
        fl_ctx: FLContext,
        abort_signal: Any,
    ) -> None:
        self._controller, self._fl_ctx, self._abort_signal = controller, fl_ctx, abort_signal
        self._announcement = announcement.to_bytes()
        self._model = model
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._open: dict[str, Task] = {}

    def announce(self, site: str) -> None:
        """Send the announcement."""
        self._schedule(
            site,
            messages.TASKS[Round.ADVERTISE_KEYS],
            messages.announcing(self._announcement),
        )

    def send(self, site: str, round_: Round, message: bytes) -> None:
        """Send the protocol's message that opens a round, with the model if sites train in it."""
        trains = round_ is Round.MASKED_INPUT_COLLECTION
        data = FLModelUtils.to_shareable(self._model) if trains else Shareable()
        self._schedule(site, messages.TASKS[round_], messages.put_message(data, message))

    def next_result(self, timeout: float) -> Result | None:
        """Return a site's result, or None after ``timeout`` seconds."""
        try:
            return self._results.get(timeout=timeout)
        except queue.Empty:
            return None

    def is_gone(self, site: str) -> bool:
        """Return whether NVFlare has given the site up, which takes a minute unless the job says otherwise."""
        return self._controller.get_client_disconnect_time(site) is not None

    def cancel(self, site: str) -> None:
        """Cancel a site's task."""
        task = self._open.pop(site, None)
        if task is not None:
            self._controller.cancel_task(task)

    @property
    def stopped(self) -> bool:
        """Return whether the job was ended."""
        return bool(self._abort_signal.triggered)

    def _schedule(self, site: str, name: str, data: Shareable) -> None:
        task = Task(name=name, data=data, result_received_cb=self._received)
        self._open[site] = task
        self._controller.send(task=task, fl_ctx=self._fl_ctx, targets=[site])

    def _received(self, client_task: Any, fl_ctx: FLContext) -> None:
        """Take a result; NVFlare calls this in another thread."""
        result, site = client_task.result, client_task.client.name
        client_task.result = None
        # A late answer may come when the site has another task or none.
        if self._open.get(site) is not client_task.task:
            return
        if isinstance(result, Shareable):
            self._results.put(Result(site, messages.take_message(result), messages.refusal_reason(result)))
        else:
            self._results.put(Result(site, None))


def announced_meta(meta: dict[str, Any]) -> tuple[tuple[str, Scalar], ...]:
    """Return the numbers and texts of a model's meta, which trainers get."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in meta.items()}
    told = {name: value for name, value in plain.items() if isinstance(name, str) and isinstance(value, Scalar)}
    if left := plain.keys() - told.keys():
        _LOG.warning(
            "trainers do not get entries of the model's meta that are neither numbers nor texts: %s",
            sorted(map(str, left)),
        )
    return tuple(sorted(told.items()))
