"""What a model is trained for: the loss, and the metrics that are measured beside it.

A loss is ``loss(output, target)``, a scalar tensor, the mean over the batch's examples. A metric is
``metric(output, target)``: a number, the mean over the batch's examples, or a pair (numerator, denominator), such as
right pixels and pixels, or true positives and positives. Clients' numerators and denominators are summed and divided
once, so a metric must be such a ratio of sums; an area under a curve or a median is none.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from fl.data.dataset import are_classes
from fl.errors import ConfigError
from fl.learning.figures import ACCURACY, CROSS_ENTROPY, FigureRange, Total
from fl.learning.own_code import ModelSource, call_own, is_reference, load_reference, make_model

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Metric: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]

# Targets of this value are not counted, as in torch's cross entropy: the padding of sequences.
_IGNORED = -100


def _cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if output.ndim < 2 or (output.shape[:1] + output.shape[2:] != target.shape and output.shape != target.shape):
        raise ConfigError(
            f"cross-entropy takes outputs (N, classes, ...) for targets (N, ...), not {_shape(output)} for "
            f"{_shape(target)}"
        )
    return functional.cross_entropy(output, target)


def _accuracy(output: torch.Tensor, target: torch.Tensor) -> Total:
    if target.shape == output.shape:
        # Targets are the classes' probabilities.
        target = target.argmax(dim=1)
    counted = target != _IGNORED
    return int(((output.argmax(dim=1) == target) & counted).sum()), int(counted.sum())


def _binary_accuracy(output: torch.Tensor, target: torch.Tensor) -> Total:
    target = _like(output, target)
    return int(((output > 0) == (target > 0.5)).sum()), target.numel()


def _elementwise(loss: Callable[..., torch.Tensor], output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return loss(output, _like(output, target))


def _mse(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return _elementwise(functional.mse_loss, output, target)


def _mae(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return _elementwise(functional.l1_loss, output, target)


def _huber(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return _elementwise(functional.huber_loss, output, target)


def _bce_with_logits(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return _elementwise(functional.binary_cross_entropy_with_logits, output, target)


def _like(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the targets in the output's shape and type: torch would pair each of (N,) with each of (N, 1)."""
    if output.shape != target.shape and (*target.shape, 1) != output.shape and target.shape != (*output.shape, 1):
        raise ConfigError(
            f"the model's output {_shape(output)} and the targets {_shape(target)} differ in shape: give a model or "
            "targets of the other's shape, or for classes cross-entropy and accuracy"
        )
    return target.reshape(output.shape).to(output.dtype)


_LOSSES: dict[str, Loss] = {
    "cross-entropy": _cross_entropy,
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "bce-with-logits": _bce_with_logits,
}
_METRICS: dict[str, Metric] = {
    "accuracy": _accuracy,
    "binary-accuracy": _binary_accuracy,
    "mse": _mse,
    "mae": _mae,
}
# torch's own, given as they are in a program.
_OF_TORCH: dict[Any, Loss] = {
    functional.cross_entropy: _cross_entropy,
    nn.CrossEntropyLoss: _cross_entropy,
    functional.mse_loss: _mse,
    nn.MSELoss: _mse,
    functional.l1_loss: _mae,
    nn.L1Loss: _mae,
    functional.huber_loss: _huber,
    nn.HuberLoss: _huber,
    functional.binary_cross_entropy_with_logits: _bce_with_logits,
    nn.BCEWithLogitsLoss: _bce_with_logits,
}
LOSSES: tuple[str, ...] = tuple(_LOSSES)
"""The names of losses."""
METRICS: tuple[str, ...] = tuple(_METRICS)
"""The names of metrics."""


@dataclass(frozen=True)
class Task:
    """A loss to train with, and metrics to measure.

    Args:
        loss: a function, an `nn.Module`, a class or function that makes one without arguments, one of `LOSSES`, or
            ``package.module:name`` of one of these.
        metrics: by name, each a function, one of `METRICS`, or ``package.module:name``; or a list of names or named
            functions. None: accuracy with cross entropy, else none.

    Attributes:
        loss, metrics: the functions that these are.
        loss_name: the loss as it was named.

    Raises:
        ConfigError: a loss or metric is unknown, or of another form.
    """

    loss: Any = "cross-entropy"
    metrics: Any = None
    loss_name: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss_name", _shown_name(self.loss))
        loss = _made_loss(self.loss)
        chosen = self.metrics
        if chosen is None:
            chosen = ("accuracy",) if loss is _cross_entropy else ()
        object.__setattr__(self, "loss", loss)
        object.__setattr__(self, "metrics", _made_metrics(chosen))

    @property
    def is_classification(self) -> bool:
        """Whether the loss is the built-in cross entropy."""
        return self.loss is _cross_entropy

    @property
    def is_plain_classification(self) -> bool:
        """Whether loss and metrics are the default, cross entropy and accuracy."""
        return self.is_classification and [*self.metrics.values()] == [_accuracy]

    @property
    def figures(self) -> tuple[FigureRange, ...]:
        """The range of the loss and of each metric, in which they are summed securely."""
        return (
            CROSS_ENTROPY if self.is_classification else FigureRange("loss"),
            *(self._metric_range(name, metric) for name, metric in self.metrics.items()),
        )

    @staticmethod
    def _metric_range(name: str, metric: Metric) -> FigureRange:
        if metric in (_accuracy, _binary_accuracy):
            return FigureRange(name, ACCURACY.low, ACCURACY.high, ACCURACY.fraction_bits)
        return FigureRange(name)

    def mean_loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the batch's mean loss, a scalar; ConfigError if the user's loss returns something else."""
        loss = call_own(f"loss {self.loss_name}", lambda: self.loss(output, target))
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise ConfigError(
                f"the loss must return one number, the mean over the batch's examples, not {_described(loss)}"
            )
        return loss.reshape(())

    def loss_sum(self, output: torch.Tensor, target: torch.Tensor) -> float:
        """Return the sum of the batch's losses."""
        if self.is_classification and target.ndim == 1 and not target.is_floating_point():
            # One rounding less than the mean times the number of examples.
            return functional.cross_entropy(output, target, reduction="sum").item()
        return self.mean_loss(output, target).item() * len(target)

    def measure(self, output: torch.Tensor, target: torch.Tensor) -> list[Total]:
        """Return each metric's numerator and denominator on a batch; (0, 0) where a metric is not a number.

        The output is what the model returns: a tensor, unless the user's loss takes something else.
        """
        if isinstance(output, torch.Tensor):
            output = output.detach()
        return [
            _total(name, call_own(f"metric {name}", partial(metric, output, target)), len(target))
            for name, metric in self.metrics.items()
        ]

    def check(self, output: Any, targets: torch.Tensor) -> None:
        """Try the loss and the metrics on the output for two examples; ConfigError if they do not fit it."""
        target = targets[[0, -1]]
        with warnings.catch_warnings(), torch.no_grad():
            # torch only warns when it pairs each target with each output.
            warnings.filterwarnings("error", message="Using a target size")
            self.mean_loss(output, target)
            self.measure(output, target)

    def make_model(
        self,
        model: ModelSource,
        dtype: torch.dtype,
        targets: torch.Tensor,
        *,
        image_shape: tuple[int, ...],
        num_classes: int,
        seed: int,
    ) -> nn.Module:
        """Return a model, tried with the loss and metrics; see `fl.learning.own_code.make_model`.

        Args:
            model: as there.
            dtype: the type of the inputs.
            targets: at least one target.
            image_shape, num_classes, seed: as there.
        """
        if self.is_classification and targets.ndim == 1 and not (are_classes(targets) and num_classes > 1):
            raise ConfigError(
                "cross-entropy needs classes, whole numbers from 0, and the targets are none: choose another loss, "
                "such as mse"
            )
        usual = self.is_plain_classification and are_classes(targets)
        return make_model(
            model,
            image_shape=image_shape,
            num_classes=num_classes,
            seed=seed,
            dtype=dtype,
            check=None if usual else partial(self.check, targets=targets),
        )

    def to(self, device: torch.device) -> None:
        """Move a loss or metric that is a module."""
        for one in (self.loss, *self.metrics.values()):
            if isinstance(one, nn.Module):
                one.to(device)


def _made_loss(given: Any) -> Loss:
    loss = _found(given, "loss", _LOSSES)
    reduction = getattr(loss, "reduction", "mean")
    if isinstance(loss, nn.Module) and reduction != "mean":
        raise ConfigError(
            f"loss {type(loss).__name__}: it must be the mean over the batch, not reduction={reduction!r}"
        )
    return loss


def _made_metrics(given: Any) -> dict[str, Metric]:
    if not isinstance(given, Mapping):
        given = [given] if isinstance(given, str) or not isinstance(given, Iterable) else given
        pairs = [(_name_of(one), one) for one in given]
    else:
        pairs = list(given.items())
    metrics: dict[str, Metric] = {}
    for name, one in pairs:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64 or name == "loss":
            raise ConfigError(f"a metric's name must be a short text other than loss, not {name!r}")
        if name in metrics:
            raise ConfigError(f"two metrics are named {name}: give each its own name")
        metrics[name] = _found(one, "metric", _METRICS)
    return metrics


def _name_of(metric: Any) -> str:
    """Return the name under which a metric is shown: that of the function, without its module."""
    return _shown_name(metric).rpartition(":")[2]


def _shown_name(given: Any) -> str:
    return given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)


def _found(given: Any, what: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return the function that is meant: by name, made by a class or factory, or given as it is."""
    name = _shown_name(given)
    if isinstance(given, str):
        if not is_reference(given):
            if given not in known:
                raise ConfigError(f"unknown {what} {given!r}; known are {', '.join(known)}, and package.module:name")
            return known[given]
        given = load_reference(given, what)
    if type(given) in _OF_TORCH and vars(given) == vars(type(given)()):
        # One with torch's defaults is what its class stands for.
        given = type(given)
    if inspect.isroutine(given) or isinstance(given, type):
        given = _OF_TORCH.get(given, given)
    if isinstance(given, type) or (inspect.isroutine(given) and _takes_nothing(given)):
        given = call_own(f"{what} {name}", given)
    if not callable(given):
        raise ConfigError(f"{what} {name}: it must be a function of output and target, not {_described(given)}")
    return given  # type: ignore[no-any-return]


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return not any(one.kind is not one.KEYWORD_ONLY for one in parameters)


def _total(name: str, value: Any, num_examples: int) -> Total:
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    numbers = [_number(one) for one in (value if is_pair else (value,))]
    if any(one is None for one in numbers):
        raise ConfigError(
            f"metric {name} must return one number, or a pair of numbers (numerator, denominator), not "
            f"{_described(value)}"
        )
    numerator, denominator = numbers if is_pair else (numbers[0] * num_examples, num_examples)
    if denominator < 0 or denominator == math.inf:
        raise ConfigError(f"metric {name}: its denominator must be finite and at least 0, not {denominator}")
    if not denominator or math.isnan(numerator) or math.isnan(denominator):
        return 0, 0
    return numerator, denominator


def _number(value: Any) -> Any:
    """Return a Python number; None if the value is none."""
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (RuntimeError, ValueError):
            return None
    return value if isinstance(value, int | float) else None


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {_shape(value)}"
    return f"an object of type {type(value).__name__}"


CLASSIFICATION = Task()
"""Cross entropy and accuracy."""
