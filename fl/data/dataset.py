"""A labeled data set in memory: the only form in which data go from the sources to training."""

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

    The examples of `fl.data` are images. Other data sets may hold rows of a table, or anything else with one shape.

    `train_images`, `test_images`: finite float32 tensors (N, ...); images are (N, C, H, W), standardized (see
    `standardize`).
    `train_labels`, `test_labels`: int64 tensors (N,), each in 0..num_classes-1.
    `train_writers`: the owner of each training example (its writer, hospital, phone), int64 array (N,), or None if
    unknown.

    NumPy arrays of these types are converted to tensors. Writers may also be a list, a tensor or integers of another
    type.

    Raises DataError if a type, a shape, a dtype, a length, a value or a label does not fit.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    num_classes: int
    train_writers: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            object.__setattr__(self, name, self._tensor(name, getattr(self, name)))
        object.__setattr__(self, "train_writers", self._numbers(self.train_writers))
        self._check_part("training", self.train_images, self.train_labels)
        self._check_part("test", self.test_images, self.test_labels)
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

    def _tensor(self, name: str, values: Any) -> torch.Tensor:
        try:
            return as_tensor(values)
        except DataError as error:
            raise DataError(f"{self.name}: {name} {error}") from None

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
        if images.ndim < 2 or images.dtype != torch.float32:
            raise DataError(f"{self.name}: {part} examples must be float32 (N, ...), not {_shown(images)}")
        if not images.numel():
            raise DataError(f"{self.name}: there are no {part} examples: their shape is {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.name}: {part} labels must be one int64 for each of the {len(images)} images, "
                f"not {_shown(labels)}"
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise DataError(f"{self.name}: {part} labels must be in 0..{self.num_classes - 1}")
        if not torch.isfinite(images).all():
            at = int((~torch.isfinite(images.flatten(1))).any(dim=1).nonzero()[0])
            raise DataError(f"{self.name}: {part} example {at} has a value that is not finite")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return the shape of one example; for images (channels, height, width)."""
        return tuple(self.train_images.shape[1:])


def _shown(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def as_tensor(values: Any) -> torch.Tensor:
    """Return a tensor as it is, and a NumPy array as a tensor of its own; DataError for anything else."""
    if isinstance(values, torch.Tensor):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        with contextlib.suppress(TypeError):  # torch has fewer types
            # A copy: torch refuses foreign byte orders and negative strides, and warns about read-only memory.
            return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))
    what = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
    raise DataError(f"must be a torch tensor, or a NumPy array of numbers, not {what}")


def standardize(pixels: npt.NDArray[np.uint8], *, full_scale: float, mean: float, std: float) -> torch.Tensor:
    """Return gray levels (N, H, W) in 0..full_scale as float32 (N, 1, H, W): (pixels / full_scale - mean) / std.

    Mean and deviation are published constants of the data set. They are not measured, since in federated learning no
    party may see the pixels of all clients.
    """
    images = torch.tensor(pixels, dtype=torch.float32)
    return images.sub_(mean * full_scale).div_(std * full_scale).unsqueeze_(1)
