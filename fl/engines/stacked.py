"""Training of many clients as one computation: models are stacked, and each step takes a batch of each client.

Steps, batches and their order are those of `fl.learning.training.train`; sums are in another order, so the last bits of
results differ. The overhead of a small model's step exceeds its computation; here it is paid once for all clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from fl.aggregation.encoding import ClientUpdate
from fl.data.dataset import are_classes
from fl.errors import ConfigError
from fl.learning.own_code import own_code_of
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.settings import Local
from fl.learning.task import CLASSIFICATION, Task
from fl.learning.training import DivergedError, batch_normalizing_layers

Weights: TypeAlias = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class StackedClient:
    """One client: the indices of its examples in the data set, int64 (N,), and the seed of their order."""

    places: torch.Tensor
    seed: int


def check_stackable(model: nn.Module, training: Local, task: Task = CLASSIFICATION) -> None:
    """Raise ConfigError, with all reasons, if clients of this model, training and task cannot be stacked."""
    problems = []
    if not task.is_plain_classification:
        problems.append("it knows classification only, with the loss cross-entropy and the metric accuracy")
    if training.optimizer != "sgd":
        problems.append(f"its clients train with sgd, not {training.optimizer}")
    if training.bfloat16 == "on":
        problems.append("it computes in float32, not bfloat16")
    state = model.state_dict(keep_vars=True)
    if buffers := sorted(set(state) - {name for name, _ in model.named_parameters(remove_duplicate=False)}):
        problems.append(f"the model has state that training changes outside its gradients ({', '.join(buffers)})")
    # Even without running statistics: batches are padded here, and the padding would count.
    if normalizing := batch_normalizing_layers(model):
        problems.append(f"the model normalizes over a batch ({', '.join(normalizing)})")
    if len({id(value) for value in state.values()}) != len(state):
        problems.append("the model has one parameter under several names")
    if drawing := sorted({type(layer).__name__ for layer in model.modules() if _draws(layer)}):
        problems.append(f"the model draws at random ({', '.join(drawing)}), which needs one client after the other")
    if problems:
        raise ConfigError(f"the engine batched cannot do this: {'; '.join(problems)}. Use the engine processes")


class StackedTraining:
    """Training of clients of one model together.

    Args:
        model: the model, whose computation is used, but not its weights.
        images, labels: the data set's examples, float32 (N, ...) and int64 (N,).
    """

    def __init__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._model = model.train()
        self._rows = images.reshape(len(images), -1)
        self._shape = images.shape[1:]
        self._labels = labels
        self._layout = ParameterLayout.of(model)
        self._trained = {name for name, value in model.named_parameters() if value.requires_grad}
        # Frozen parameters are not received: all clients use this model's.
        self._frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
        self._gradients = vmap(grad_and_value(self._loss, has_aux=True), in_dims=(0, None, 0, 0, 0))

    def check(self) -> None:
        """Raise ConfigError now, not in the first round, if torch cannot stack the model's computation."""
        if not are_classes(self._labels):
            raise ConfigError("the engine batched knows classes as targets only. Use the engine processes")
        weights = {name: value.detach() for name, value in self._model.state_dict().items()}
        pair = {name: torch.stack([value, value]) for name, value in weights.items() if name in self._trained}
        inputs, truth = self._rows.new_zeros(2, 2, *self._shape), torch.zeros(2, 2, dtype=torch.int64)
        with own_code_of(self._model):
            try:
                self._gradients(pair, self._frozen, inputs, truth, truth == 0)
            except RuntimeError as error:
                reason = str(error).strip().split("\n")[0]
                raise ConfigError(
                    f"the engine batched cannot stack this model ({reason}). Use the engine processes"
                ) from error

    def updates(
        self, received: Weights, clients: Sequence[StackedClient], training: Local
    ) -> list[ClientUpdate | DivergedError]:
        """Train all clients from the weights ``received``, by name; return results in the clients' order."""
        # Sort by steps, most first: finished clients are then at the end, and no weights need a mask.
        order = sorted(range(len(clients)), key=lambda i: -len(clients[i].places))
        chosen = [clients[i] for i in order]
        batches = [_batches(client, training) for client in chosen]
        steps_of = [len(own) for own in batches]
        weights = {
            name: value.detach().expand(len(chosen), *value.shape).clone(memory_format=torch.contiguous_format)
            for name, value in received.items()
            if name in self._trained
        }
        step = _Step(weights, training)
        losses = np.full((steps_of[0], len(chosen)), np.nan)
        correct = np.zeros((steps_of[0], len(chosen)), dtype=np.int64)
        for number in range(steps_of[0]):
            active = sum(steps > number for steps in steps_of)
            places, counted = _stack([own[number] for own in batches[:active]], training.batch_size)
            inputs = self._rows.index_select(0, places.view(-1)).view(active, -1, *self._shape)
            truth = self._labels.index_select(0, places.view(-1)).view(active, -1)
            current = {name: value[:active] for name, value in weights.items()}
            with own_code_of(self._model):
                gradients, (loss, right) = self._gradients(current, self._frozen, inputs, truth, counted)
            losses[number, :active] = loss.numpy()
            correct[number, :active] = right.numpy()
            step.apply(gradients, active)
        results: list[ClientUpdate | DivergedError | None] = [None] * len(clients)
        for row, index in enumerate(order):
            own = {name: weights[name][row] if name in weights else value for name, value in received.items()}
            sizes = np.array([len(batch) for batch in batches[row]])
            result = _result(losses[: steps_of[row], row], correct[: steps_of[row], row], sizes, own, training)
            results[index] = result if isinstance(result, DivergedError) else self._update(received, own, result)
        return [result for result in results if result is not None]

    def _loss(
        self, weights: Weights, frozen: Weights, inputs: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one client's mean loss over the rows that count, and the number of correct ones among them."""
        logits: torch.Tensor = functional_call(self._model, {**weights, **frozen}, (inputs,))
        losses = functional.cross_entropy(logits, truth, reduction="none")
        # Not a product with 0, since a NaN in a row that does not count would remain.
        loss = torch.where(counted, losses, 0.0).sum() / counted.sum()
        return loss, ((logits.argmax(dim=1) == truth) & counted).sum()

    def _update(self, received: Weights, own: Weights, totals: tuple[int, float, int]) -> ClientUpdate:
        num_examples, loss_sum, correct = totals
        return ClientUpdate(
            delta=self._vector(own) - self._vector(received),
            num_examples=num_examples,
            loss_sum=loss_sum,
            metrics=((correct, num_examples),),
        )

    def _vector(self, weights: Weights) -> np.ndarray:
        return np.concatenate([weights[entry.name].reshape(-1).numpy() for entry in self._layout.entries])


class _Step:
    """SGD on stacked weights, as `torch.optim.SGD` on one model, with FedProx's term added to the gradient."""

    def __init__(self, weights: Weights, training: Local) -> None:
        self._weights = weights
        self._training = training
        # All clients start from one model.
        self._start = {name: value[:1].clone() for name, value in weights.items()} if training.proximal else {}
        self._velocity: Weights = {}

    def apply(self, gradients: Mapping[str, torch.Tensor], active: int) -> None:
        """Update the weights of the first ``active`` clients, in place."""
        training = self._training
        names = list(gradients)
        weights = [self._weights[name][:active] for name in names]
        direction = [gradients[name] for name in names]
        if training.proximal:
            away = [weight - self._start[name] for weight, name in zip(weights, names, strict=True)]
            torch._foreach_add_(direction, away, alpha=training.proximal)
        if training.weight_decay:
            torch._foreach_add_(direction, weights, alpha=training.weight_decay)
        if training.momentum:
            if not self._velocity:
                self._velocity = dict(zip(names, direction, strict=True))
            else:
                velocity = [self._velocity[name][:active] for name in names]
                torch._foreach_mul_(velocity, training.momentum)
                torch._foreach_add_(velocity, direction)
                direction = velocity
        torch._foreach_add_(weights, direction, alpha=-training.learning_rate)


def _batches(client: StackedClient, training: Local) -> list[torch.Tensor]:
    """Return the example indices of each batch, over all epochs, as `fl.learning.training.train` draws them."""
    generator = torch.Generator().manual_seed(client.seed)
    batches: list[torch.Tensor] = []
    for _ in range(training.epochs):
        order = torch.randperm(len(client.places), generator=generator)
        batches += torch.split(client.places[order], training.batch_size)
    return batches


def _stack(batches: list[torch.Tensor], batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return batches of different sizes as one: indices int64 (clients, rows), and bool flags of rows that count."""
    rows = min(batch_size, max(map(len, batches)))
    places = torch.zeros(len(batches), rows, dtype=torch.int64)
    counted = torch.zeros(len(batches), rows, dtype=torch.bool)
    for client, batch in enumerate(batches):
        places[client, : len(batch)] = batch
        counted[client, : len(batch)] = True
    return places, counted


def _result(
    losses: np.ndarray, correct: np.ndarray, sizes: np.ndarray, weights: Weights, training: Local
) -> tuple[int, float, int] | DivergedError:
    """Return examples, loss sum and correct answers of one client's last epoch, from its steps."""
    remedy = f"lower the learning rate (it is {training.learning_rate})"
    per_epoch = len(losses) // training.epochs
    wrong = np.flatnonzero(~np.isfinite(losses))
    if len(wrong):
        epoch, batch = divmod(int(wrong[0]), per_epoch)
        return DivergedError(f"the loss is {losses[wrong[0]]} in epoch {epoch + 1}, batch {batch + 1}: {remedy}")
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            return DivergedError(f"{name} is not finite after training: {remedy}")
    last = slice(len(losses) - per_epoch, None)
    return int(sizes[last].sum()), float((losses[last] * sizes[last]).sum()), int(correct[last].sum())


def _draws(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.dropout._DropoutNd | nn.RReLU)
