"""The data sets by name. `load_dataset` is the only entry point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fl.data.catalog import CATALOG, IdxFile, IdxSource
from fl.data.dataset import Dataset, standardize
from fl.data.idx import IdxArray, parse_idx
from fl.data.leaf import LEAF_FEMNIST, find_leaf_femnist, load_leaf_femnist
from fl.data.search import FileFinder
from fl.errors import ConfigError, DataError

DATASETS: tuple[str, ...] = ("digits", *CATALOG, LEAF_FEMNIST)
"""All names for `load_dataset`; the first is the default of the command line."""

# QMNIST's extended labels (Yadav and Bottou 2019, arXiv:1905.10498): column 0 is the class, column 2 the
# NIST writer. Row i of the train table belongs to MNIST's training image i.
_TABLE_COLUMNS = 8
_CLASS_COLUMN = 0
_WRITER_COLUMN = 2


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    *,
    download: bool = True,
    catalog: Mapping[str, IdxSource] = CATALOG,
) -> Dataset:
    """Return the data set `name`, verified and standardized.

    - `digits`: scikit-learn's 1,797 images of 8x8, gray levels 0..16; nothing to download.
    - `fashion-mnist`, `mnist`: 60,000 + 10,000 images of 28x28, gray levels 0..255.
    - `mnist-writers`: MNIST with the writer of each training image (539 writers; the test images
      are MNIST's, from other writers).
    - `leaf-femnist`: characters in 62 classes with their writers, as LEAF's preprocessing writes them to
      `data_dir` (`fl.data.leaf`); never downloaded.

    `data_dir` is searched first for IDX files (the full order: `fl.data.search.FileFinder`); `digits` needs no
    files. `download=False` never touches the network.

    Raises ConfigError for an unknown name; DataError if the data cannot be found or are wrong.
    """
    if name not in ("digits", LEAF_FEMNIST) and name not in catalog:
        known = ", ".join(("digits", *catalog, LEAF_FEMNIST))
        raise ConfigError(f"unknown data set {name!r}; known are {known}")
    if data_dir is not None and not _is_folder(data_dir):
        raise DataError(f"{data_dir}: no such folder (data_dir)")
    if name == "digits":
        return _load_digits()
    if name == LEAF_FEMNIST:
        return load_leaf_femnist(find_leaf_femnist(data_dir))
    source = catalog[name]
    finder = FileFinder(source, data_dir, download)
    train_labels = _read_labels(finder, source.train_labels)
    return Dataset(
        name=name,
        train_images=_read_images(finder, source.train_images),
        train_labels=train_labels,
        test_images=_read_images(finder, source.test_images),
        test_labels=_read_labels(finder, source.test_labels),
        num_classes=source.num_classes,
        train_writers=(None if source.writers is None else _read_writers(finder, source.writers, train_labels)),
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # For instance, the name is too long.
        return False


def _load_digits() -> Dataset:
    """Return scikit-learn's digits; each fifth image of each class, in file order, is a test image.

    The rule needs no random numbers, so the split is the same with all versions of all libraries.
    """
    # Importing scikit-learn takes a second, and only this data set needs it.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = standardize(pixels.astype(np.uint8).reshape(-1, 8, 8), full_scale=16, mean=0.3053, std=0.3760)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    test = torch.from_numpy(is_test)
    classes = torch.tensor(labels, dtype=torch.int64)
    return Dataset(
        name="digits",
        train_images=images[~test],
        train_labels=classes[~test],
        test_images=images[test],
        test_labels=classes[test],
        num_classes=10,
    )


def _read(finder: FileFinder, file: IdxFile, dtype: npt.DTypeLike, num_dimensions: int) -> IdxArray:
    array = parse_idx(finder.read(file), source=file.name)
    if array.dtype != dtype or array.ndim != num_dimensions:
        raise DataError(
            f"{file.name}: {array.dtype} with {array.ndim} dimensions; {np.dtype(dtype)} with {num_dimensions} expected"
        )
    return array


def _read_images(finder: FileFinder, file: IdxFile) -> torch.Tensor:
    pixels = _read(finder, file, np.uint8, 3)
    return standardize(
        pixels.astype(np.uint8, copy=False), full_scale=255, mean=finder.source.mean, std=finder.source.std
    )


def _read_labels(finder: FileFinder, file: IdxFile) -> torch.Tensor:
    return torch.tensor(_read(finder, file, np.uint8, 1), dtype=torch.int64)


def _read_writers(finder: FileFinder, file: IdxFile, labels: torch.Tensor) -> npt.NDArray[np.int64]:
    table = _read(finder, file, np.int32, 2)
    if table.shape != (len(labels), _TABLE_COLUMNS):
        raise DataError(
            f"{file.name}: table of {table.shape}; {(len(labels), _TABLE_COLUMNS)} expected, one row per image"
        )
    # The two files come from different projects: check that their rows describe the same images.
    if not np.array_equal(table[:, _CLASS_COLUMN], labels.numpy()):
        raise DataError(f"{file.name}: its classes differ from the training labels")
    return table[:, _WRITER_COLUMN].astype(np.int64)
