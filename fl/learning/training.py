"""A client's training in a round, some epochs of SGD or Adam on its own examples, and the evaluation of a model.

Results repeat bit for bit on one machine's CPU with the same number of threads: shuffling and random layers (dropout)
depend on `seed` only, and nothing depends on the clock. Other devices: `fl.learning.devices`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fl.errors import ConfigError, DataError, FLError
from fl.learning.cpu import uses_bfloat16
from fl.learning.devices import CPU, on_device, seeded_generators
from fl.learning.figures import Evaluation as Evaluation
from fl.learning.figures import Total
from fl.learning.own_code import call_own, own_code_of
from fl.learning.settings import Local, Precision
from fl.learning.task import CLASSIFICATION, Task


class DivergedError(FLError):
    """Training diverged: the loss or the weights are no longer finite. The model is unusable."""


@dataclass(frozen=True)
class LocalResult:
    """The result of a client's training: sums over its `num_examples` examples, not averages.

    `loss_sum` and `metrics` (each metric's numerator and denominator) are measured during the last epoch, on each batch
    just before the model learns from it. They cost nothing extra, and are slightly worse than the finished model's.
    """

    num_examples: int
    loss_sum: float
    metrics: tuple[Total, ...]


def train(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    config: Local,
    seed: int,
    task: Task = CLASSIFICATION,
    device: torch.device = CPU,
) -> LocalResult:
    """Train `model` in place on images (N, ...) with labels (N, ...), which may be any inputs and targets of `task`.

    Each epoch goes through all examples once in a new order drawn from `seed`. The last batch may be smaller, but if
    the model normalizes over a batch, a single leftover example joins the batch before. `model` gets the memory format
    of `config` and stays in training mode. Each call starts with a new optimizer state.

    Raises ConfigError if there are no examples, too few to normalize over, or the user's own model fails; DataError if
    images and labels do not match; DivergedError if the loss or a weight is no longer finite (`model` is then
    unusable).

    Threads of one process train one after the other, since a process has only one torch random generator.
    """
    _check_examples(images, labels)
    with on_device(model, device):
        return _train(model, images.to(device), labels.to(device), config, seed, task)


def _train(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, config: Local, seed: int, task: Task
) -> LocalResult:
    """Train a model on the device of the examples."""
    num_examples, device = len(images), images.device
    task.to(device)
    rows = _ImageRows(images, channels_last=config.channels_last)
    _set_memory_format(model, channels_last=config.channels_last)
    in_bfloat16 = uses_bfloat16(config.bfloat16, model, images.shape[1:], device)
    optimizer = _optimizer(model, config)
    proximal_term = _ProximalTerm(model, config.proximal)
    normalizing = batch_normalizing_layers(model)
    loss_sum, totals = 0.0, _Totals(task)
    with own_code_of(model), _seeded(seed, device) as generator:
        model.train()
        for epoch in range(config.epochs):
            is_last = epoch == config.epochs - 1
            order = torch.randperm(num_examples, generator=generator)
            batches: tuple[torch.Tensor, ...] = torch.split(order, config.batch_size)
            if normalizing and len(batches) > 1 and len(batches[-1]) == 1:
                batches = (*batches[:-2], torch.cat(batches[-2:]))
            for number, places in enumerate(batches):
                chosen = places.to(device)
                truth = labels.index_select(0, chosen)
                with _enough_to_normalize(normalizing, len(chosen), num_examples):
                    output = _output(model, rows.select(chosen), in_bfloat16)
                loss = task.mean_loss(output, truth)
                if not loss.requires_grad:
                    raise ConfigError("the loss has no gradient: compute it from the model's output, with torch alone")
                mean_loss = loss.item()
                if not math.isfinite(mean_loss):
                    raise DivergedError(
                        f"the loss is {mean_loss} in epoch {epoch + 1}, batch {number + 1}: {_remedy(config, task)}"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                proximal_term.add_gradient()
                optimizer.step()
                if is_last:
                    loss_sum += mean_loss * len(chosen)
                    totals.add(output, truth)
    # Check the weights: no loss is computed after the last step.
    for name, value in model.state_dict().items():
        # A finite sum has only finite terms, and is much faster to check; a sum that is not finite may have overflowed.
        if value.is_floating_point() and not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
            raise DivergedError(f"{name} is not finite after training: {_remedy(config, task)}")
    return LocalResult(num_examples, loss_sum, totals.sums)


def evaluate(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    batch_size: int = 500,
    channels_last: bool = True,
    bfloat16: Precision = "off",
    task: Task = CLASSIFICATION,
    device: torch.device = CPU,
) -> Evaluation:
    """Measure `model` (in evaluation mode, then restored) on images (N, ...) with labels (N, ...), as for `train`.

    It computes in float32 by default, so that the result does not depend on the processor's features. A diverged model
    gives a loss that is not finite, without an error.

    Raises ConfigError if there are no examples, or the user's own model fails; DataError if images and labels do not
    match.
    """
    num_examples = _check_examples(images, labels)
    rows = _ImageRows(images, channels_last=channels_last)
    _set_memory_format(model, channels_last=channels_last)
    in_bfloat16 = uses_bfloat16(bfloat16, model, images.shape[1:], device)
    loss_sum, totals = 0.0, _Totals(task)
    task.to(device)
    # no_grad, not inference_mode: a model may keep a tensor that it makes here, and train with it later.
    with own_code_of(model), on_device(model, device), _evaluation_mode(model), torch.no_grad():
        for start in range(0, num_examples, batch_size):
            # A test set may be larger than the device's memory.
            truth = labels[start : start + batch_size].to(device)
            output = _output(model, rows.part(start, start + batch_size).to(device), in_bfloat16)
            loss_sum += task.loss_sum(output, truth)
            totals.add(output, truth)
    return Evaluation(loss_sum / num_examples, dict(zip(task.metrics, totals.sums, strict=True)), num_examples)


def batch_normalizing_layers(model: nn.Module) -> list[str]:
    """Return the kinds of layers that normalize over a batch: their output for an example depends on the others."""
    return sorted(
        {type(layer).__name__ for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    )


@contextlib.contextmanager
def _enough_to_normalize(layers: list[str], size: int, num_examples: int) -> Iterator[None]:
    """Turn torch's error about the variance of one number into a ConfigError that names the setting.

    torch has to find this error, since BatchNorm2d can normalize one example over the positions of its image.
    """
    try:
        yield
    except ValueError as error:
        if not layers or size > 1 or "more than 1 value" not in str(error):
            raise
        why = "there is only one" if num_examples == 1 else "raise batch_size"
        needs = f"{', '.join(layers)} normalizes over a batch and needs at least 2 examples in it"
        raise ConfigError(f"{needs}: {why}") from error


def _optimizer(model: nn.Module, config: Local) -> torch.optim.Optimizer:
    factory = config.optimizer
    if callable(factory):
        name = getattr(factory, "__name__", type(factory).__name__)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = call_own(f"optimizer {name}", lambda: factory(trained))
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"optimizer {name}: it must return a torch.optim.Optimizer, not {type(optimizer)}")
        return optimizer
    if config.optimizer == "adam":
        return torch.optim.Adam(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=True
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        foreach=True,
    )


class _ProximalTerm:
    """The gradient mu (w - w0) of mu/2 ||w - w0||^2; cheaper than differentiating the term with the loss."""

    def __init__(self, model: nn.Module, strength: float) -> None:
        self._strength = strength
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self._parameters] if strength else []

    def add_gradient(self) -> None:
        if not self._strength:
            return
        with torch.no_grad():
            for parameter, start in zip(self._parameters, self._start, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - start, alpha=self._strength)


class _ImageRows:
    """Images converted to the wanted memory format once, and kept as a matrix (N, C*H*W).

    To select a batch then copies whole rows, into memory that the next batch reuses, and the strides alone give the
    batch its format.
    """

    def __init__(self, images: torch.Tensor, *, channels_last: bool) -> None:
        self._channels_last = channels_last and images.ndim == 4
        ordered = images.permute(0, 2, 3, 1) if self._channels_last else images
        self._shape = ordered.shape[1:]
        self._matrix = ordered.reshape(len(images), -1)
        self._buffer = self._matrix.new_empty(0)

    def select(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return the images at the indices `chosen` (int64); valid until the next call."""
        if len(self._buffer) < len(chosen):
            self._buffer = self._matrix.new_empty(len(chosen), self._matrix.shape[1])
        batch = self._buffer[: len(chosen)]
        torch.index_select(self._matrix, 0, chosen, out=batch)
        return self._as_images(batch)

    def part(self, start: int, stop: int) -> torch.Tensor:
        """Return images start..stop-1 (fewer at the end), without a copy."""
        return self._as_images(self._matrix[start:stop])

    def _as_images(self, rows: torch.Tensor) -> torch.Tensor:
        images = rows.view(len(rows), *self._shape)
        return images.permute(0, 3, 1, 2) if self._channels_last else images


class _Totals:
    """The sums of each metric's numerators and denominators over batches."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.sums: tuple[Total, ...] = ((0, 0),) * len(task.metrics)

    def add(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Measure a batch."""
        measured = self._task.measure(output, target)
        self.sums = tuple((a + c, b + d) for (a, b), (c, d) in zip(self.sums, measured, strict=True))


def _output(model: nn.Module, images: torch.Tensor, in_bfloat16: bool) -> torch.Tensor:
    """Return float32 output, so that the loss is computed in full precision with bfloat16 too."""
    if not in_bfloat16:
        output: torch.Tensor = model(images)
        return output
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        output = model(images)
    return output.float()


def _set_memory_format(model: nn.Module, *, channels_last: bool) -> None:
    """Set the format in both cases: the model's previous format must not decide how sums are rounded."""
    # torch has no channels_last for weights of volumes.
    has_volumes = any(value.ndim == 5 for value in model.state_dict().values())
    memory_format = torch.channels_last if channels_last and not has_volumes else torch.contiguous_format
    model.to(memory_format=memory_format)  # type: ignore[call-overload]


def _check_examples(images: torch.Tensor, labels: torch.Tensor) -> int:
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images, but {len(labels)} labels")
    if len(images) == 0:
        raise ConfigError("no examples: a client without data cannot take part")
    return len(images)


def _remedy(config: Local, task: Task) -> str:
    scaled = "" if task.is_classification else ", or scale the targets"
    return f"lower the learning rate (it is {config.learning_rate}){scaled}"


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Yield a generator for shuffling; torch's global generators, used by dropout, are seeded meanwhile too."""
    with seeded_generators(seed, device):
        yield torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, then restore each module: a frozen part may have been in evaluation mode before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
