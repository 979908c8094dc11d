"""A child process that trains clients: started by `fl.engines.processes`, and ended by the end of its requests.

It inherits two descriptors: a socket to its parent, and the worker's shared file (`fl.engines.shared_object`).
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

import torch

from fl.aggregation.encoding import ClientUpdate
from fl.engines.local_worker import LocalWorker
from fl.engines.shared_object import SharedObject, load_shared
from fl.errors import FLError
from secagg import ClientId
from transport.child_python import deaf_children, python_command, python_environment

_CHILD = "from fl.engines.worker_process import serve; serve()"
# A child whose requests have ended leaves within that time, unless it is in the middle of a client.
_GRACE = 0.2


@dataclass(frozen=True, slots=True)
class _Task:
    """A client to train; ``model_message`` is None if it is that of the task before."""

    client_id: ClientId
    number: int
    model_message: bytes | None


class WorkerDiedError(Exception):
    """The child ended before it answered; its text says how."""


class WorkerProcess:
    """The parent's end of one child.

    Args:
        shared: the `LocalWorker`.
        threads: torch's, in the child.
    """

    def __init__(self, shared: SharedObject, threads: int) -> None:
        own, others = socket.socketpair()
        # Plain children, as in `transport.recovery`: multiprocessing asks things of the host's main module.
        environment = python_environment(OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="PASSIVE")
        with others, deaf_children():
            descriptors = (others.fileno(), shared.fileno())
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
                python_command("-c", _CHILD, *map(str, (*descriptors, shared.size, threads))),
                stdin=subprocess.DEVNULL,
                stdout=2,  # a model of the user's may print; our own stdout may have to be JSON
                pass_fds=descriptors,
                env=environment,
            )
        with own:
            self._conversation = own.makefile("rwb")
        self._last_message: bytes | None = None

    @property
    def process_id(self) -> int:
        return self._process.pid

    def train(self, client_id: ClientId, number: int, model_message: bytes) -> ClientUpdate:
        """Let the child train a client.

        Raises:
            WorkerDiedError: it ended over it. This object is of no more use; close it.
            FLError: what the training raised; any other exception is a bug, and carries the child's traceback.
        """
        is_known = model_message is self._last_message
        try:
            pickle.dump(_Task(client_id, number, None if is_known else model_message), self._conversation, protocol=5)
            self._conversation.flush()
            answer = pickle.load(self._conversation)  # noqa: S301 - from our own child
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise WorkerDiedError(self._how_it_ended()) from error
        self._last_message = model_message
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, ClientUpdate)  # noqa: S101 - the child sends nothing else
        return answer

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        if code >= 0:
            return f"exit code {code}"
        # SIGKILL is what a system that runs out of memory sends.
        return f"signal {-code}" + (" (out of memory?)" if -code == signal.SIGKILL else "")

    def kill(self) -> None:
        """End the child at once. Another thread that waits for it gets its WorkerDiedError."""
        self._process.kill()

    def close(self) -> None:
        """End the child, at once if it is in the middle of a client; may be called again."""
        with contextlib.suppress(OSError, ValueError):
            self._conversation.close()
        try:
            self._process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve() -> None:
    """The child: clients in, updates out, until the parent closes the socket, or is no more."""
    conversation_fd, shared_fd, shared_size, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    worker: LocalWorker = load_shared(shared_fd, shared_size)
    os.close(shared_fd)
    worker.threads = threads
    model_message = b""
    with socket.socket(fileno=conversation_fd) as connection, connection.makefile("rwb") as conversation:
        while (task := _next_task(conversation)) is not None:
            if task.model_message is not None:
                model_message = task.model_message
            answer = _answer(worker, task, model_message)
            try:
                pickle.dump(answer, conversation, protocol=5)
                conversation.flush()
            except BrokenPipeError:
                os._exit(0)  # without the flush at exit, which would fail again


def _next_task(conversation: io.BufferedRWPair) -> _Task | None:
    try:
        task: _Task = pickle.load(conversation)  # noqa: S301 - from our own parent
    except (EOFError, ConnectionError):
        return None
    return task


def _answer(worker: LocalWorker, task: _Task, model_message: bytes) -> ClientUpdate | BaseException:
    try:
        return worker.update(task.client_id, task.number, model_message)
    except FLError as error:
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - a bug of ours or in the user's model: the parent raises it
        import traceback

        told = RuntimeError(f"{type(error).__name__} while client {task.client_id} was trained: {error}")
        told.add_note("".join(traceback.format_exception(error)))
        return told
