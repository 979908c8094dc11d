"""The contract of a training engine: what it is given and what it gives. `fl.engines.factory` opens one."""

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
    """What an engine may use. It is about the machine and not about the run: a resumed run may have others.

    Attributes:
        workers: clients that are trained at the same time; 0: as many as there are cores.
        address: of a Ray cluster, such as ``auto``, ``HOST:6379`` or ``ray://HOST:10001``; empty: Ray on this machine.
    """

    workers: int = 0
    address: str = ""

    def check(self, engine: str) -> None:
        """ConfigError if the engine of that name cannot use them."""
        problems = []
        if self.workers < 0:
            problems.append(f"workers must be at least 1, or 0 for all cores, not {self.workers}")
        elif self.workers and engine not in ("processes", "ray"):
            problems.append(f"workers are of the engines processes and ray: the engine {engine} is one process")
        if self.address and engine != "ray":
            problems.append(f"an address is of a Ray cluster: use the engine ray, not {engine}")
        if self.address and self.workers:
            problems.append("a Ray cluster has as many workers as it has cores: leave out workers")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, slots=True, eq=False)
class RoundTraining:
    """One round's work.

    Attributes:
        number: the round, from 1.
        model_messages: what each sampled client was sent, `fl.learning.serialization.model_to_bytes`; usually one
            object.
        expected: the clients that will most likely be asked for their update, in no special order: an engine may
            train them before they are asked. Those who vanish before their masked input are not among them.
    """

    number: int
    model_messages: Mapping[ClientId, bytes]
    expected: tuple[ClientId, ...]


class RoundTrainer(Protocol):
    """Gives the updates of one round's clients."""

    def __call__(self, client_id: ClientId) -> ClientUpdate:
        """A sampled client's update, trained in this round from the model that it was sent.

        Raises:
            DivergedError: its training ran away (`fl.learning.training`).
            EngineError: it cannot be trained, through no fault of its own.
        """
        ...

    def announce(self, client_id: ClientId, due: float) -> None:
        """The client will be asked for its update; those with a smaller ``due`` before it. It need not be told."""
        ...


class TrainingEngine(Protocol):
    """Trains a run's clients.

    Attributes:
        recovery: where the server's masks are recovered, if not on this machine.
    """

    @property
    def recovery(self) -> MaskRecovery | None: ...

    def round(self, training: RoundTraining) -> AbstractContextManager[RoundTrainer]:
        """Open a round, one at a time. Leaving the context drops what was not asked for."""
        ...

    def close(self) -> None:
        """Give back processes and memory; may be called again."""
        ...
