"""The code that runs on Ray's workers. All machines need the driver's version of this package."""

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
"""Bytes as an array, since Ray's workers read arrays directly in the machine's object store."""


@dataclass(frozen=True, slots=True)
class SharedWorker:
    """A run's `LocalWorker` in the object store.

    Attributes:
        key: key of the run; a process keeps the loaded worker for its next client.
        reference: reference to its `Bytes`, as `fl.engines.shared_object.dump` wrote them.
        size: start of the pickled part.
        threads: number of torch's threads for a client.
    """

    key: bytes
    reference: Any
    size: int
    threads: int


# The worker of the client that this process trained last.
_loaded: dict[bytes, LocalWorker] = {}


def train_client(shared: SharedWorker, message: Bytes, client_id: ClientId, number: int) -> ClientUpdate | FLError:
    """Train a client. An exception of the training is returned, since Ray would wrap a raised one."""
    worker = _worker(shared)
    try:
        with torch_threads(worker.threads):
            return worker.update(client_id, number, message.tobytes())
    except FLError as error:
        return error.with_traceback(None)


def recover_part(part: UnmaskJob) -> MaskSum:
    """Run a part of the server's job. Security: it holds seeds of masks that are in the sum."""
    return part.run()


def _worker(shared: SharedWorker) -> LocalWorker:
    if shared.key not in _loaded:
        _loaded.clear()
        worker: LocalWorker = load(memoryview(ray.get(shared.reference)), shared.size)
        # The examples stay in the object store, which is read-only; the model is copied, since training writes to it.
        worker.model = copy.deepcopy(worker.model)
        worker.threads = shared.threads
        torch.set_num_threads(shared.threads)
        _loaded[shared.key] = worker
    return _loaded[shared.key]
