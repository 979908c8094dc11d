"""Work of the owners of model and data on plain values, each in its own process, before anything is shared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fl.encrypted.jobs import DataInput, ModelInput, Opening
from fl.encrypted.plan import StoredWeights, make_plan
from fl.encrypted.steps import InferencePlan
from fl.errors import ConfigError, DataError
from fl.learning.own_code import make_dataset, make_model
from fl.learning.serialization import load_model

_CALIBRATION_EXAMPLES = 500


@dataclass(frozen=True)
class DataAnnouncement:
    """The public announcement of the data's owner.

    shape: shape of one image. classes, count: number of classes, and of images. batch: number of images at a time.
    opening: the result to open. pixel_range: the smallest and the largest pixel of all.
    """

    shape: tuple[int, ...]
    classes: int
    count: int
    batch: int
    opening: Opening
    pixel_range: tuple[float, float]


class ModelOwner:
    """The owner of the model. Raises ConfigError if its file cannot be read."""

    def __init__(self, source: ModelInput) -> None:
        self._source = source
        try:
            self._bytes = Path(source.path).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {source.path}: {error.strerror}") from None

    def __repr__(self) -> str:
        return "ModelOwner(<redacted>)"

    def plan(self, announced: DataAnnouncement) -> tuple[InferencePlan, list[StoredWeights]]:
        """Return the plan for these images, and the weights as integers. Raises ConfigError if they do not fit."""
        source = self._source
        model = make_model(source.name, image_shape=announced.shape, num_classes=announced.classes, seed=0)
        try:
            load_model(model, self._bytes)
        except Exception as error:  # noqa: BLE001  # safetensors and torch raise half a dozen kinds
            kind = type(error).__name__
            raise ConfigError(f"{source.path} is not a {source.name} for images {announced.shape}: {kind}") from None
        examples = None
        if source.calibration is not None:
            examples = make_dataset(source.calibration, _path(source.data_dir)).train_images[:_CALIBRATION_EXAMPLES]
        return make_plan(model, announced.shape, announced.pixel_range, examples)


class DataOwner:
    """The owner of images and labels. Raises DataError or ConfigError if they cannot be loaded."""

    def __init__(self, source: DataInput) -> None:
        dataset = make_dataset(source.dataset, _path(source.data_dir))
        if not (dataset.has_classes and dataset.has_test and dataset.num_classes > 1):
            raise DataError(f"{source.dataset} has no test set of classes, which an encrypted evaluation needs")
        images = dataset.test_images
        count = len(images) if source.images is None else source.images
        if count > len(images):
            raise DataError(f"{source.dataset} has {len(images)} test images, not {count}")
        self._images: torch.Tensor = images[:count]
        self._labels: npt.NDArray[np.int64] = dataset.test_labels[:count].numpy()
        self.announcement = DataAnnouncement(
            shape=tuple(images.shape[1:]),
            classes=dataset.num_classes,
            count=count,
            batch=source.batch,
            opening=source.opening,
            pixel_range=(float(images.min()), float(images.max())),
        )

    def __repr__(self) -> str:
        return "DataOwner(<redacted>)"

    def pixels(self, part: slice, bits: int) -> npt.NDArray[np.int64]:
        """Return the pixels of a batch as round(x * 2^bits), int64 (n, *shape)."""
        return np.rint(self._images[part].double().numpy() * 2.0**bits).astype(np.int64)

    def labels(self, part: slice) -> npt.NDArray[np.int64]:
        """Return the labels of a batch, int64 (n,)."""
        return self._labels[part]

    def accuracy(self, predictions: list[int]) -> float:
        """Return the share of correct predictions."""
        return float(np.mean(np.array(predictions) == self._labels))


def _path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)
