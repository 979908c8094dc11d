"""A child process that trains clients, for `fl.engines.processes`.

The child inherits the descriptor of the worker's shared file (`fl.engines.shared_object`).
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass

import torch

from fl.aggregation.encoding import ClientUpdate
from fl.engines.local_worker import LocalWorker
from fl.engines.shared_object import SharedObject, load_shared
from fl.errors import FLError
from secagg import ClientId
from transport.processes import ChildProcess, Parent


@dataclass(frozen=True, slots=True)
class _Task:
    """A client to train; ``model_message`` is None if it is the same as in the previous task."""

    client_id: ClientId
    number: int
    model_message: bytes | None


class WorkerProcess(ChildProcess):
    """The parent's end of one child.

    Args:
        shared: the shared `LocalWorker`.
        threads: number of torch's threads in the child.
    """

    def __init__(self, shared: SharedObject, threads: int) -> None:
        super().__init__(
            "fl.engines.worker_process:serve",
            *map(str, (shared.fileno(), shared.size, threads)),
            environment={"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"},
            inherited=(shared.fileno(),),
        )
        self._last_message: bytes | None = None

    def train(self, client_id: ClientId, number: int, model_message: bytes) -> ClientUpdate:
        """Let the child train a client.

        Raises:
            ChildDiedError: the child ended. This object cannot be used again; close it.
            FLError: the training failed. Any other exception is a bug, and carries the child's traceback.
        """
        is_known = model_message is self._last_message
        self.send(_Task(client_id, number, None if is_known else model_message))
        answer = self.receive()
        self._last_message = model_message
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, ClientUpdate)  # noqa: S101 - the child sends nothing else
        return answer


def serve(parent: Parent, shared_fd: str, shared_size: str, threads: str) -> None:
    """Run in the child: receive clients, send updates."""
    torch.set_num_threads(int(threads))
    worker: LocalWorker = load_shared(int(shared_fd), int(shared_size))
    os.close(int(shared_fd))
    worker.threads = int(threads)
    model_message = b""
    for task in parent:
        if task.model_message is not None:
            model_message = task.model_message
        parent.send(_answer(worker, task, model_message))


def _answer(worker: LocalWorker, task: _Task, model_message: bytes) -> ClientUpdate | BaseException:
    try:
        return worker.update(task.client_id, task.number, model_message)
    except FLError as error:
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - a bug of ours or in the user's model: the parent raises it
        told = RuntimeError(f"{type(error).__name__} while client {task.client_id} was trained: {error}")
        told.add_note("".join(traceback.format_exception(error)))
        return told
