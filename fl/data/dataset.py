"""A labeled image set in memory: the one form in which data goes from the sources to training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fl.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, split into training and test examples.

    `train_images`, `test_images`: float32 tensors (N, 1, H, W), standardized (see `standardize`).
    `train_labels`, `test_labels`: int64 tensors (N,), each in 0..num_classes-1.
    `train_writers`: who wrote each training image, int64 array (N,), or None where that is not known.

    Raises DataError if a shape, a dtype, a length or a label does not fit.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    num_classes: int
    train_writers: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self._check_part("training", self.train_images, self.train_labels)
        self._check_part("test", self.test_images, self.test_labels)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"{self.name}: training images are {tuple(self.train_images.shape[1:])}, "
                f"test images {tuple(self.test_images.shape[1:])}"
            )
        writers = self.train_writers
        if writers is not None and (writers.dtype != np.int64 or writers.shape != (len(self.train_labels),)):
            raise DataError(
                f"{self.name}: writers must be one int64 for each of the {len(self.train_labels)} training "
                f"images, not {writers.dtype} {writers.shape}"
            )

    def _check_part(self, part: str, images: torch.Tensor, labels: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 1 or images.dtype != torch.float32:
            raise DataError(
                f"{self.name}: {part} images must be float32 (N, 1, H, W), not {images.dtype} {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.name}: {part} labels must be one int64 for each of the {len(images)} images, "
                f"not {labels.dtype} {tuple(labels.shape)}"
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise DataError(f"{self.name}: {part} labels must be in 0..{self.num_classes - 1}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width


def standardize(pixels: npt.NDArray[np.uint8], *, full_scale: float, mean: float, std: float) -> torch.Tensor:
    """(N, H, W) gray levels in 0..full_scale -> float32 (N, 1, H, W): (pixels / full_scale - mean) / std.

    Mean and deviation are published constants of the data set, not measured on the data at hand: in
    federated learning nobody may look at all clients' pixels to measure them.
    """
    images = torch.tensor(pixels, dtype=torch.float32)
    return images.sub_(mean * full_scale).div_(std * full_scale).unsqueeze_(1)
