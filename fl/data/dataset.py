"""A data set in memory, inputs with targets: the only form in which data go from the sources to training."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fl.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples and labels, split into training and test examples.

    The examples of `fl.data` are images with classes. Other data sets may hold anything else with one shape: rows of a
    table, series, tokens; and other targets than classes in the place of labels.

    `train_images`, `test_images`: finite numbers (N, ...), float32, or int64 or uint8 for whole numbers such as tokens;
    images are (N, C, H, W), standardized (see `standardize`).
    `train_labels`, `test_labels`: classes are int64 (N,), each in 0..num_classes-1; other targets are finite float32 or
    int64 (N, ...).
    Both test parts are None, or empty, if there is no test set.
    `num_classes`: the number of a model's outputs. By default the number of classes; for other targets the size of
    their second dimension, or 1. With 1, labels may be any numbers.
    `train_writers`: the owner of each training example (its writer, hospital, phone), int64 array (N,), or None if
    unknown.

    Tensors and NumPy arrays of other numbers are converted to these types. Writers may also be a list, a tensor or
    integers of another type.

    Raises DataError if a type, a shape, a length, a value or a label does not fit.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor = None  # type: ignore[assignment]  # it is a tensor once it is checked
    test_labels: torch.Tensor = None  # type: ignore[assignment]
    num_classes: int = 0
    train_writers: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self._convert("train_images", "train_labels")
        self._check_part("training", self.train_images, self.train_labels)
        if self.test_images is None and self.test_labels is None:
            object.__setattr__(self, "test_images", self.train_images[:0])
            object.__setattr__(self, "test_labels", self.train_labels[:0])
        self._convert("test_images", "test_labels")
        self._check_part("test", self.test_images, self.test_labels)
        if not self.num_classes:
            object.__setattr__(self, "num_classes", self._num_outputs())
        self._check_classes("training", self.train_labels)
        self._check_classes("test", self.test_labels)
        object.__setattr__(self, "train_writers", self._numbers(self.train_writers))
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"{self.name}: training images are {tuple(self.train_images.shape[1:])}, "
                f"test images {tuple(self.test_images.shape[1:])}"
            )
        writers = self.train_writers
        if writers is not None and writers.shape != (len(self.train_labels),):
            raise DataError(
                f"{self.name}: train_writers must be one whole number for each of the {len(self.train_labels)} "
                f"training examples, not {writers.shape}"
            )

    def _convert(self, *names: str) -> None:
        for name in names:
            tensor = usual_type(self._tensor(name, getattr(self, name)), keeps_bytes="images" in name)
            object.__setattr__(self, name, tensor)

    def _tensor(self, name: str, values: Any) -> torch.Tensor:
        if isinstance(values, torch.Tensor):
            return values
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
            with contextlib.suppress(TypeError):  # torch has fewer types
                # A copy: torch refuses foreign byte orders and negative strides, and warns about read-only memory.
                return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))
        what = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        raise DataError(f"{self.name}: {name} must be a torch tensor, or a NumPy array of numbers, not {what}")

    def _numbers(self, writers: Any) -> npt.NDArray[np.int64] | None:
        if writers is None:
            return None
        try:
            found = np.asarray(writers)
        except (TypeError, ValueError, RuntimeError):
            found = np.array(None)
        if found.dtype.kind not in "iu" or (found.size and found.max() > np.iinfo(np.int64).max):
            raise DataError(
                f"{self.name}: train_writers must be whole numbers, one for each training example, not {found.dtype}; "
                "np.unique(names, return_inverse=True)[1] turns names into numbers"
            )
        return found.astype(np.int64, copy=False)

    def _check_part(self, part: str, images: torch.Tensor, labels: torch.Tensor) -> None:
        if images.ndim < 2 or images.dtype.is_complex:
            raise DataError(f"{self.name}: {part} examples must be real numbers (N, ...), not {_shown(images)}")
        if part == "training" and not images.numel():
            raise DataError(f"{self.name}: there are no {part} examples: their shape is {tuple(images.shape)}")
        if labels.ndim < 1 or len(labels) != len(images) or labels.dtype.is_complex:
            raise DataError(
                f"{self.name}: {part} labels must be one int64 for each of the {len(images)} images, or a target of "
                f"real numbers, not {_shown(labels)}"
            )
        for what, values in (("a value", images), ("a target", labels)):
            if not torch.isfinite(values).all():
                at = int((~torch.isfinite(values).reshape(len(values), -1)).any(dim=1).nonzero()[0])
                raise DataError(f"{self.name}: {part} example {at} has {what} that is not finite")

    def _check_classes(self, part: str, labels: torch.Tensor) -> None:
        is_checked = self.has_classes and self.num_classes > 1 and len(labels) > 0
        if is_checked and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise DataError(f"{self.name}: {part} labels must be in 0..{self.num_classes - 1}")

    def _num_outputs(self) -> int:
        targets = self.train_labels
        if self.has_classes:
            return max(2, *(int(part.max()) + 1 for part in (targets, self.test_labels) if len(part)))
        return targets.shape[1] if targets.ndim > 1 else 1

    @property
    def has_classes(self) -> bool:
        """Return whether each label is a whole number, such as a class, and not another target."""
        return are_classes(self.train_labels)

    @property
    def has_test(self) -> bool:
        """Return whether there is a test set."""
        return len(self.test_labels) > 0

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return the shape of one example; for images (channels, height, width)."""
        return tuple(self.train_images.shape[1:])


def are_classes(targets: torch.Tensor) -> bool:
    """Return whether each target is one whole number."""
    return targets.ndim == 1 and targets.dtype == torch.int64


def usual_type(values: torch.Tensor, *, keeps_bytes: bool) -> torch.Tensor:
    """Return numbers as float32 or int64; with ``keeps_bytes``, uint8 stays, which is much smaller."""
    if values.is_floating_point():
        return values.float()
    return values if values.dtype.is_complex or (keeps_bytes and values.dtype == torch.uint8) else values.long()


def _shown(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def standardize(pixels: npt.NDArray[np.uint8], *, full_scale: float, mean: float, std: float) -> torch.Tensor:
    """Return gray levels (N, H, W) in 0..full_scale as float32 (N, 1, H, W): (pixels / full_scale - mean) / std.

    Mean and deviation are published constants of the data set. They are not measured, since in federated learning no
    party may see the pixels of all clients.
    """
    images = torch.tensor(pixels, dtype=torch.float32)
    return images.sub_(mean * full_scale).div_(std * full_scale).unsqueeze_(1)
