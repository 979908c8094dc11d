"""The interface of a training engine: its inputs and results. `fl.engines.factory` opens one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from fl.aggregation.encoding import ClientUpdate
from fl.errors import ConfigError
from secagg import ClientId
from transport import MaskRecovery


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of an engine. They belong to the machine, not to the run, and may differ when a run is resumed.

    Attributes:
        workers: number of clients trained at the same time; None: one per core.
        address: address of a Ray cluster, such as ``auto``, ``HOST:6379`` or ``ray://HOST:10001``; None: Ray on this
            machine.
        device: the device of clients' training, one of `fl.learning.devices.DEVICES`. Engines of several processes
            share it. The engines batched and ray train on the CPU.
    """

    workers: int | None = None
    address: str | None = None
    device: str = "cpu"

    def check(self, engine: str) -> None:
        """Raise ConfigError if the engine of that name cannot use these resources."""
        problems = []
        if self.workers is not None and self.workers < 1:
            problems.append(f"workers must be at least 1, not {self.workers}")
        elif self.workers and engine not in ("processes", "ray"):
            problems.append(f"workers are for the engines processes and ray: the engine {engine} is one process")
        if self.address and engine != "ray":
            problems.append(f"an address is for a Ray cluster: use the engine ray, not {engine}")
        if self.device not in ("cpu", "auto") and engine in ("batched", "ray"):
            problems.append(f"the engine {engine} trains on the CPU, not on {self.device}: use serial or processes")
        if self.address and self.workers:
            problems.append("a Ray cluster has as many workers as it has cores: leave out workers")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, slots=True, eq=False)
class RoundTraining:
    """The work of one round.

    Attributes:
        number: number of the round, from 1.
        model_messages: the bytes sent to each sampled client (`fl.learning.serialization.round_message`); usually one
            object for all.
        expected: the clients that will most likely be asked for their update, in no special order, without those that
            vanish before their masked input. An engine may train them in advance.
    """

    number: int
    model_messages: Mapping[ClientId, bytes]
    expected: tuple[ClientId, ...]


class RoundTrainer(Protocol):
    """A function that returns the updates of one round's clients."""

    def __call__(self, client_id: ClientId) -> ClientUpdate:
        """Return a sampled client's update, trained in this round from the model that it received.

        Raises:
            DivergedError: the client's training diverged (`fl.learning.training`).
            EngineError: the engine failed, so the client cannot be trained.
        """
        ...

    def announce(self, client_id: ClientId, due: float) -> None:
        """Announce that the client will be asked for its update, clients with a smaller ``due`` first. Optional."""
        ...


class TrainingEngine(Protocol):
    """A way to train a run's clients.

    Attributes:
        recovery: the place where the server's masks are recovered, if not this machine.
    """

    @property
    def recovery(self) -> MaskRecovery | None: ...

    def round(self, training: RoundTraining) -> AbstractContextManager[RoundTrainer]:
        """Open a round, one at a time. Leaving the context drops updates that were not asked for."""
        ...

    def close(self) -> None:
        """Release processes and memory; may be called again."""
        ...
