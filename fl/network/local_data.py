"""A client's own examples: its part of a data set that `fl.data` knows, or two arrays of its own."""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fl.custom import make_dataset
from fl.data.partition import partition
from fl.errors import ConfigError, DataError
from fl.models import ImageShape

_SHARD = re.compile(r"(\d{1,7})/(\d{1,7})", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class LocalData:
    """A client's training examples.

    Attributes:
        images: float32 (N, ...); images are (N, C, H, W).
        labels: int64 (N,), at least 0.
    """

    images: torch.Tensor
    labels: torch.Tensor

    @property
    def image_shape(self) -> ImageShape:
        """The shape of one example; of an image, (channels, height, width)."""
        return tuple(self.images.shape[1:])

    @property
    def max_label(self) -> int:
        """The largest label."""
        return int(self.labels.max())

    @property
    def is_of_one_class(self) -> bool:
        """Whether all labels are the same."""
        return bool((self.labels == self.max_label).all())


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N``: the I-th of N parts, counted from 0. ConfigError if it is none."""
    match = _SHARD.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError(f"a shard is I/N, the I-th of N parts from 0/N to N-1/N, not {text!r}")
    return int(match[1]), int(match[2])


def load_shard(
    name: str, data_dir: Path | None, shard: tuple[int, int], *, scheme: str, seed: int, alpha: float, per_client: int
) -> LocalData:
    """One part of a known data set, dealt out as `secagg train` does with the same numbers.

    Args:
        name, data_dir: as `fl.custom.make_dataset` takes them.
        shard: which part, of how many.
        scheme, seed, alpha, per_client: as `fl.data.partition.partition` takes them.

    Raises:
        ConfigError, DataError: as those.
    """
    dataset = make_dataset(name, data_dir)
    index, count = shard
    parts = partition(dataset, scheme, count, seed=seed, alpha=alpha, shards_per_client=per_client)
    return LocalData(dataset.train_images[parts[index]], dataset.train_labels[parts[index]])


def load_arrays(path: Path) -> LocalData:
    """Arrays ``x`` and ``y``: a folder with x.npy and y.npy or with one .npz file, or that file.

    ``x`` is (N, H, W) or (N, C, H, W), or (N, columns) of a table, numbers as the model is to see them (scaled,
    standardized); ``y`` is (N,), labels from 0. Files with Python objects in them are refused: reading those would run
    what is in them.

    Raises:
        DataError: they are missing, damaged, or do not fit.
    """
    try:
        x, y = _read(path)
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no arrays x and y in it (.npy or .npz, without objects): {error}") from None
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim not in (2, 4) or x.dtype.kind not in "fiub" or not x.size:
        raise DataError(f"{path}: x must be numbers (N, H, W), (N, C, H, W) or (N, columns), not {x.dtype} {x.shape}")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= 2**31:
        raise DataError(f"{path}: y must be one label from 0 for each of the {len(x)} images, not {y.dtype} {y.shape}")
    images = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    if not torch.isfinite(images).all():
        raise DataError(f"{path}: x has numbers that are not finite")
    return LocalData(images, torch.from_numpy(y.astype(np.int64)))


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if path.is_dir():
        if (path / "x.npy").exists():
            return np.load(path / "x.npy", allow_pickle=False), np.load(path / "y.npy", allow_pickle=False)
        archives = sorted(path.glob("*.npz"))
        if len(archives) != 1:
            raise ValueError(f"neither x.npy nor one .npz file, but {len(archives)}")
        path = archives[0]
    # A file that is no archive, np.load would leave open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return archive["x"], archive["y"]
