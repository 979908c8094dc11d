"""What a training engine is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from fl.errors import ConfigError
from fl.local_work import LocalWorker
from fl.quantization import ClientUpdate
from secagg import ClientId

TrainClient = Callable[[ClientId], ClientUpdate]


@dataclass(frozen=True, slots=True, eq=False)
class RoundTraining:
    """One round's work.

    Attributes:
        number: the round, from 1.
        model_messages: what each sampled client was sent, `fl.serialization.model_to_bytes`; usually one object.
        expected: the clients that will most likely be asked for their update, in no special order: an engine may
            train them before they are asked. Those who vanish before their masked input are not among them.
    """

    number: int
    model_messages: Mapping[ClientId, bytes]
    expected: tuple[ClientId, ...]


class TrainingEngine(Protocol):
    """Trains a run's clients.

    `round` gives, within its context, a function that returns a sampled client's update, trained in that round from
    the model that it was sent; it raises `fl.training.DivergedError` for a client whose training ran away. Leaving the
    context drops what was not asked for.
    """

    def round(self, training: RoundTraining) -> AbstractContextManager[TrainClient]:
        """Open a round."""
        ...

    def close(self) -> None:
        """Give back processes and memory; may be called again."""
        ...


def open_engine(name: str, worker: LocalWorker) -> TrainingEngine:
    """The engine of that name (`fl.config.ENGINES`) for one run. ConfigError if it cannot work here."""
    if name == "serial":
        from fl.engines.serial import SerialEngine

        return SerialEngine(worker)
    raise ConfigError(f"unknown engine {name!r}")
