"""One party of an encrypted evaluation, in a child process of its own (`transport.processes`).

It receives its job (`fl.encrypted.jobs`) from its parent, sends events, and ends when the parent ends. It reports the
text of errors that the user can act on, but only the kind of other errors, since messages and tracebacks of MPyC may
hold shares.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fl.encrypted.engine import start_engine
from fl.encrypted.forward import SharedModel
from fl.encrypted.jobs import DATA_OWNER, MODEL_OWNER, RECEIVERS, Job
from fl.errors import FLError
from transport.processes import Parent

# Only the owners need torch; the third party starts in half the time without it.
if TYPE_CHECKING:
    from fl.encrypted.owners import DataAnnouncement, DataOwner, ModelOwner
    from fl.encrypted.steps import InferencePlan


def run_party(parent: Parent) -> None:
    """Run the job to its end; exit with code 1 if it fails."""
    requests = iter(parent)
    job: Job = next(requests)
    threading.Thread(target=_end_with_parent, args=(requests, Path(job.folder)), daemon=True).start()
    failures: list[str] = []

    def tell(event: str, **values: Any) -> None:
        parent.send((event, values))

    try:
        party = _Party(job, tell)
        os.chdir(job.folder)  # MPyC reads its certificates from .config in the working directory.
        party.run(failures)
    except FLError as error:
        tell("error", kind=type(error).__name__, message=str(error))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  # see the module
        # Report the error that stopped the event loop before the error that it was stopped.
        tell("error", kind=(*failures, type(error).__name__)[0])
        sys.exit(1)


def _end_with_parent(requests: Iterator[object], folder: Path) -> None:
    for _ in requests:
        pass
    # The parent is gone, so delete the keys here.
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
    os._exit(3)


class _Party:
    """The state of a party, and its computation."""

    def __init__(self, job: Job, tell: Callable[..., None]) -> None:
        self._id = job.party
        self._tell = tell
        self._model_owner: ModelOwner | None = None
        self._data_owner: DataOwner | None = None
        if job.model is not None or job.data is not None:
            import torch

            from fl.encrypted.owners import DataOwner, ModelOwner

            torch.set_num_threads(1)
            self._model_owner = None if job.model is None else ModelOwner(job.model)
            self._data_owner = None if job.data is None else DataOwner(job.data)
        self._mpc, self._integers = start_engine(job)

    def run(self, failures: list[str]) -> None:
        """Run the job; add the kinds of exceptions that stop the event loop to ``failures``."""

        def handle(loop: Any, context: dict[str, Any]) -> None:
            failures.append(type(context.get("exception")).__name__)
            loop.stop()

        self._mpc._loop.set_exception_handler(handle)
        self._mpc.run(self._evaluate())

    async def _evaluate(self) -> None:
        self._tell("ready")
        await self._mpc.start()
        connected = time.perf_counter()
        own = None if self._data_owner is None else self._data_owner.announcement
        announced: DataAnnouncement = await self._mpc.transfer(own, senders=DATA_OWNER)
        plan, model = await self._share_model(announced)
        began, cpu = time.perf_counter(), time.process_time()
        self._tell("shared", seconds=began - connected, widths=plan.comparisons)
        result = await self._run_batches(announced, plan, model)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        sent = sum(peer.protocol.nbytes_sent for peer in self._mpc.parties if peer.pid != self._id)
        await self._mpc.shutdown()
        self._tell("done", **result, images=announced.count, seconds=seconds, cpu_seconds=cpu_seconds, bytes_sent=sent)

    async def _share_model(self, announced: DataAnnouncement) -> tuple[InferencePlan, SharedModel]:
        own_plan, own_weights = (None, []) if self._model_owner is None else self._model_owner.plan(announced)
        plan: InferencePlan = await self._mpc.transfer(own_plan, senders=MODEL_OWNER)
        shares = []
        for index, shape in enumerate(plan.weight_shapes):
            matrix, bias = (own_weights[index].matrix, own_weights[index].bias) if own_weights else (None, None)
            shares.append(
                (await self._share(MODEL_OWNER, shape, matrix), await self._share(MODEL_OWNER, shape[1:], bias))
            )
        return plan, SharedModel(self._mpc, self._integers, plan, shares)

    async def _run_batches(
        self, announced: DataAnnouncement, plan: InferencePlan, model: SharedModel
    ) -> dict[str, Any]:
        """Run all batches; return predictions and accuracy, only the accuracy, or nothing, as this party may learn."""
        receivers = list(RECEIVERS[announced.opening])
        predictions: list[int] = []
        hits: list[Any] = []
        for start in range(0, announced.count, announced.batch):
            part = slice(start, min(start + announced.batch, announced.count))
            size = part.stop - part.start
            pixels = None if self._data_owner is None else self._data_owner.pixels(part, plan.input_bits)
            classes = await model.classes(await self._share(DATA_OWNER, (size, *announced.shape), pixels))
            if announced.opening == "accuracy":
                labels = None if self._data_owner is None else self._data_owner.labels(part)
                hits.append(
                    await self._hits(classes, await self._share(DATA_OWNER, (size,), labels), announced.classes)
                )
            else:
                opened = await self._mpc.output(self._secure(2, classes), receivers=receivers)
                predictions += [] if opened is None else [int(value) for value in opened]
            self._tell("progress", images=part.stop, total=announced.count)
        if announced.opening == "accuracy":
            total = hits[0]
            for more in hits[1:]:
                total = total + more
            opened = await self._mpc.output(self._secure(2, total), receivers=receivers)
            return {} if opened is None else {"accuracy": int(opened[0]) / announced.count}
        if self._data_owner is None:
            return {}
        return {"predictions": predictions, "accuracy": self._data_owner.accuracy(predictions)}

    async def _hits(self, classes: Any, labels: Any, num_classes: int) -> Any:
        """Return shares of the number of correct classes, a field array (1,); no party learns which are correct."""
        bits = math.ceil(math.log2(num_classes)) + 2
        equal = await self._mpc.gather(self._mpc.np_sgn(self._secure(bits, classes - labels), l=bits, EQ=True))
        return type(equal)(np.sum(equal.value.reshape(1, -1), axis=1))

    async def _share(self, owner: int, shape: tuple[int, ...], values: Any) -> Any:
        """Return shares, a field array, of the owner's int64 array of this shape; other parties pass None."""
        array = np.zeros(shape, np.int64) if values is None else values
        return await self._mpc.gather(self._mpc.input(self._secure(2, array), senders=owner))

    def _secure(self, bits: int, values: Any) -> Any:
        return self._integers(bits).array(values)
