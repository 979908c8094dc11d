"""The interface of a training engine: its inputs and results. `fl.engines.factory` opens one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from fl.aggregation.encoding import ClientUpdate
from fl.errors import ConfigError, EngineError
from secagg import ClientId
from transport import WorkerLostError, Workers


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of an engine. They belong to the machine, not to the run, and may differ when a run is resumed.

    Attributes:
        workers: number of cores: for the clients' part of the protocol and the recovery of masks, and with the engines
            processes and ray for training; None: all.
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

    def may_be_early(self, client_id: ClientId) -> bool:
        """Return whether asking for the client before its update is due changes no update."""
        ...


class TrainingEngine(Protocol):
    """A way to train a run's clients.

    Attributes:
        workers: the places that run the clients' part of the protocol and recover the server's masks.
    """

    @property
    def workers(self) -> Workers: ...

    def round(self, training: RoundTraining) -> AbstractContextManager[RoundTrainer]:
        """Open a round, one at a time. Leaving the context drops updates that were not asked for."""
        ...

    def close(self) -> None:
        """Release processes and memory; may be called again."""
        ...


@contextmanager
def workers_in_words() -> Iterator[None]:
    """Raise EngineError instead of the transport's WorkerLostError."""
    try:
        yield
    except WorkerLostError as error:
        raise EngineError(str(error)) from error
