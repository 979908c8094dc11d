"""Ditto: a personal model beside the global one, through all rounds (Li et al., ICML 2021, arXiv:2012.04221)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from fl.errors import ConfigError
from fl.learning.settings import Local
from fl.learning.task import CLASSIFICATION, Task
from fl.learning.training import train


@dataclass(frozen=True, slots=True)
class Ditto:
    """Training of a client's personal model, which never leaves the client, in each round that it takes part in.

    The paper's Algorithm 1: after the global model w^t has arrived, some steps of

        v <- v - rate * (gradient of the client's loss at v + strength * (v - w^t)).

    Nothing that is sent changes. Unlike `FineTuning` from the last global model, it keeps the knowledge of earlier
    rounds. With strength 0 the client learns alone.

    Attributes:
        training: the steps in each round; its `proximal` must be 0, since it would pull to the round's starting point.
        strength: lambda of the paper.
        task: the loss and metrics.

    Raises:
        ConfigError: a number is out of range.
    """

    training: Local
    strength: float
    task: Task = CLASSIFICATION

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ConfigError(f"Ditto's strength must be finite and at least 0, not {self.strength}")
        if self.training.proximal:
            raise ConfigError("Ditto has its own proximal term: leave the training's proximal at 0")

    def improve(
        self, own: nn.Module, received: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, seed: int
    ) -> None:
        """Train the personal model `own` for one round, in place, after the global model `received` arrived.

        Raises ConfigError if there are no examples, or the models differ in their parameters; DivergedError if
        training diverged.
        """
        anchor = [parameter.detach() for parameter in received.parameters()]
        with _pulled(own, anchor, self.strength):
            train(own, images, labels, self.training, seed, self.task)


@contextmanager
def _pulled(model: nn.Module, anchor: Sequence[torch.Tensor], strength: float) -> Iterator[None]:
    """Add strength * (v - w) to the gradient of each parameter v as soon as it is computed; `anchor` has the w."""
    parameters = list(model.parameters())
    if [parameter.shape for parameter in parameters] != [value.shape for value in anchor]:
        raise ConfigError("the personal model and the global one differ in their parameters")

    def pull(changed: torch.Tensor, value: torch.Tensor) -> None:
        with torch.no_grad():
            assert changed.grad is not None  # noqa: S101 - the hook runs when it has been accumulated
            changed.grad.add_(changed - value, alpha=strength)

    hooks = [
        parameter.register_post_accumulate_grad_hook(partial(pull, value=value))  # type: ignore[no-untyped-call]
        for parameter, value in zip(parameters, anchor, strict=True)
        if strength and parameter.requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
