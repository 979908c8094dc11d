"""Ditto: a personal model beside the global one, through all rounds (Li et al., ICML 2021, arXiv:2012.04221)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from fl.errors import ConfigError
from fl.learning.training import LocalTraining, train


@dataclass(frozen=True, slots=True)
class Ditto:
    """In each round that it takes part in, a client also improves a model of its own, which never leaves it.

    The paper's Algorithm 1: after the global model w^t has arrived, some steps of

        v <- v - rate * (gradient of the client's loss at v + strength * (v - w^t)).

    The federation does not notice: what is sent is what it would be without. Between `FineTuning` from the last global
    model (one start, one anchor) and learning alone (strength 0) it keeps what was learned in earlier rounds.

    Attributes:
        training: the steps in each round; its `proximal` is 0, since it would pull to where the round's training began.
        strength: the paper's lambda.

    Raises:
        ConfigError: numbers out of range.
    """

    training: LocalTraining
    strength: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ConfigError(f"Ditto's strength must not be negative, nor {self.strength}")
        if self.training.proximal:
            raise ConfigError("Ditto has a pull of its own: leave the training's proximal at 0")

    def improve(
        self, own: nn.Module, received: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, seed: int
    ) -> None:
        """One round's steps on the personal model `own`, in place, after the global model `received` arrived.

        Raises ConfigError if there are no examples, or the models differ in their parameters; DivergedError if
        training ran away.
        """
        anchor = [parameter.detach() for parameter in received.parameters()]
        with _pulled(own, anchor, self.strength):
            train(own, images, labels, self.training, seed)


@contextmanager
def _pulled(model: nn.Module, anchor: Sequence[torch.Tensor], strength: float) -> Iterator[None]:
    """Adds strength * (v - w) to the gradient of each parameter v as soon as it is there; `anchor` has the w."""
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
