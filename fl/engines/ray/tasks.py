"""What runs on Ray's workers. Every machine needs this package, of the same version as the driver's."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from fl.aggregation.encoding import ClientUpdate
from fl.engines.local_worker import LocalWorker
from fl.engines.shared_object import load
from fl.errors import FLError
from fl.learning.cpu import torch_threads
from secagg import ClientId, MaskSum, UnmaskJob

Bytes = npt.NDArray[np.uint8]
"""Bytes as an array: Ray's workers read arrays where they lie in the machine's object store."""


@dataclass(frozen=True, slots=True)
class SharedWorker:
    """A run's `LocalWorker` in the object store.

    Attributes:
        key: of the run; a worker process that has loaded it keeps it for the next client.
        reference: to its `Bytes`, as `fl.engines.shared_object.dump` wrote them.
        size: where the pickled part begins.
        threads: torch's, for a client.
    """

    key: bytes
    reference: Any
    size: int
    threads: int


# This process's: the one that it trained a client of last.
_loaded: dict[bytes, LocalWorker] = {}


def train_client(shared: SharedWorker, message: Bytes, client_id: ClientId, number: int) -> ClientUpdate | FLError:
    """Train a client. What the training raises is the result: Ray would wrap it."""
    worker = _worker(shared)
    try:
        with torch_threads(worker.threads):
            return worker.update(client_id, number, message.tobytes())
    except FLError as error:
        return error.with_traceback(None)


def recover_part(part: UnmaskJob) -> MaskSum:
    """A part of the server's job. Security: it holds seeds of masks that are in the sum."""
    return part.run()


def _worker(shared: SharedWorker) -> LocalWorker:
    if shared.key not in _loaded:
        _loaded.clear()
        worker: LocalWorker = load(memoryview(ray.get(shared.reference)), shared.size)
        # The examples stay in the object store, which is read-only; weights are written to.
        worker.model = copy.deepcopy(worker.model)
        worker.threads = shared.threads
        torch.set_num_threads(shared.threads)
        _loaded[shared.key] = worker
    return _loaded[shared.key]
