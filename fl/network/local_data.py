"""A client's examples: a part of a data set of `fl.data`, or two arrays of its own."""

import json
import math
import re
import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as numpy_format

from fl.data.dataset import are_classes
from fl.data.partition import partition
from fl.errors import ConfigError, DataError, in_words
from fl.learning.models import ImageShape
from fl.learning.own_code import make_dataset
from transport.errors import printable

_HOW = "np.savez('examples.npz', x=x, y=y) writes one"
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": " "}
_HEADERS = {(1, 0): numpy_format.read_array_header_1_0, (2, 0): numpy_format.read_array_header_2_0}
_ENCRYPTED = 1
# An error lists this many names of an archive's members.
_NAMED = 5

_SHARD = re.compile(r"(\d{1,7})/(\d{1,7})", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class LocalData:
    """A client's training examples.

    Attributes:
        images: the examples (N, ...), float32 or whole numbers; for images, (N, C, H, W).
        labels: the labels: classes are int64 (N,), at least 0, other targets numbers (N, ...).
    """

    images: torch.Tensor
    labels: torch.Tensor

    @property
    def image_shape(self) -> ImageShape:
        """The shape of one example; for an image, (channels, height, width)."""
        return tuple(self.images.shape[1:])

    def shaped_for(self, image_shape: ImageShape, input_type: str = "float32") -> "LocalData":
        """Return the data for a model of this example shape and type of inputs.

        Images (H, W) get a channel if the model needs one, and whole numbers the type that is needed.
        """
        images, dtype = self.images, getattr(torch, input_type)
        if len(image_shape) == 3 and image_shape == (1, *self.image_shape):
            images = images[:, None]
        if images.dtype != dtype and torch.equal(images.to(dtype).double(), images.double()):
            images = images.to(dtype)
        return self if images is self.images else LocalData(images, self.labels)

    @property
    def has_classes(self) -> bool:
        """Whether each label is one whole number."""
        return are_classes(self.labels)

    @property
    def max_label(self) -> int:
        """The largest label, where they are classes."""
        return int(self.labels.max()) if self.has_classes else 0

    @property
    def is_of_one_class(self) -> bool:
        """Whether all labels are the same class."""
        return self.has_classes and bool((self.labels == self.max_label).all())


def parse_shard(text: str) -> tuple[int, int]:
    """Parse ``I/N``, part I of N, counted from 0; ConfigError if it is not valid."""
    match = _SHARD.fullmatch(text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError(f"a shard is I/N, part I of N from 0/N to N-1/N, not {text!r}")
    return int(match[1]), int(match[2])


def load_shard(
    name: str, data_dir: Path | None, shard: tuple[int, int], *, scheme: str, seed: int, alpha: float, per_client: int
) -> LocalData:
    """Return one part of a known data set, split as `secagg train` splits it with the same settings.

    Args:
        name, data_dir: as `fl.learning.own_code.make_dataset` takes them.
        shard: the index of the part, and the number of parts.
        scheme, seed, alpha, per_client: as `fl.data.partition.partition` takes them.

    Raises:
        ConfigError, DataError: from these functions.
    """
    dataset = make_dataset(name, data_dir)
    index, count = shard
    parts = partition(dataset, scheme, count, seed=seed, alpha=alpha, shards_per_client=per_client)
    return LocalData(dataset.train_images[parts[index]], dataset.train_labels[parts[index]])


def load_arrays(path: Path) -> LocalData:
    """Load arrays ``x`` and ``y`` from a folder with x.npy and y.npy or with one .npz file, or from such a file.

    ``x`` is (N, ...): tables (N, columns), images (N, H, W) or (N, C, H, W), series, volumes; the numbers go to the
    model unchanged, so scale or standardize them first. ``y`` is (N,), labels from 0, or other targets (N, ...). Files
    with Python objects are refused, since reading them would run code from the file.

    Raises:
        DataError: the arrays are missing, damaged, or do not match.
    """
    try:
        x, y = _read(path)
    except _UnfitError as error:
        raise DataError(f"{path}: no arrays x and y in it: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: no arrays x and y in it: {in_words(error)}") from None
    except Exception as error:  # noqa: BLE001 - zlib, lzma, zipfile and NumPy raise a dozen kinds over damaged files
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: no arrays x and y in it: it is damaged ({why})") from None
    if x.ndim < 2 or x.dtype.kind not in "fiub" or not x.size:
        raise DataError(
            f"{path}: x must be numbers (N, ...), such as (N, columns), (N, H, W) or (N, C, H, W), "
            f"not {x.dtype} {x.shape}"
        )
    are_whole = y.dtype.kind in "iub" and not (y.size and np.abs(y.astype(np.float64)).max() >= 2**31)
    are_numbers = y.dtype.kind == "f" or (are_whole and not (y.ndim == 1 and y.min() < 0))
    if y.shape[:1] != x.shape[:1] or not are_numbers:
        raise DataError(
            f"{path}: y must be one whole number from 0 for each of the {len(x)} examples, or a target of numbers for "
            f"each, not {y.dtype} {y.shape}"
        )
    with np.errstate(over="ignore"):
        images = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        labels = torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64 if are_whole else np.float32))
    for name, values in (("x", images), ("y", labels)):
        if not torch.isfinite(values).all():
            raise DataError(f"{path}: {name} has values that are not finite: remove or replace them")
    return LocalData(images, labels)


class _UnfitError(Exception):
    """A file does not hold usable arrays; the text says why."""


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if path.is_dir():
        if (path / "x.npy").exists():
            return _read_file(path / "x.npy"), _read_file(path / "y.npy")
        archives = sorted(path.glob("*.npz"))
        if len(archives) != 1:
            raise _UnfitError(f"it has neither x.npy nor one .npz file, but {len(archives)}; {_HOW}")
        path = archives[0]
    with path.open("rb") as file:
        if path.suffix.lower() in _DELIMITERS:
            raise _UnfitError(_conversion(path))
        if not zipfile.is_zipfile(file):
            raise _UnfitError(f"it is not a .npz file, or an incomplete one; {_HOW}")
    with zipfile.ZipFile(path) as archive:
        return _read_member(archive, "x"), _read_member(archive, "y")


def _read_file(path: Path) -> npt.NDArray[Any]:
    with path.open("rb") as file:
        return _read_array(file, path.stat().st_size)


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    names = archive.namelist()
    if f"{name}.npy" not in names:
        there = printable(", ".join(map(repr, names[:_NAMED])))
        raise _UnfitError(f"it has no array {name}, but {there or 'nothing'}; {_HOW}")
    member = archive.getinfo(f"{name}.npy")
    if member.flag_bits & _ENCRYPTED:
        raise _UnfitError("it is encrypted with a password: write it again without one")
    with archive.open(member) as file:
        return _read_array(file, member.file_size)


def _read_array(file: IO[bytes], size: int) -> npt.NDArray[Any]:
    """Read a .npy file of ``size`` bytes; its header's size is checked before memory is allocated."""
    read_header = _HEADERS.get(numpy_format.read_magic(file))
    if read_header is None:
        raise _UnfitError("its arrays have columns with names: make one plain array of them")
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise _UnfitError("it has Python objects, and reading them could run code: store plain numbers")
    declared, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if declared > there:
        raise _UnfitError(f"it is damaged: its header declares {declared:,} bytes, but {there:,} follow")
    file.seek(0)
    array: npt.NDArray[Any] = numpy_format.read_array(file, allow_pickle=False)
    return array


def _conversion(path: Path) -> str:
    """Return an error text with the command that converts a text table to an archive."""
    # JSON strings are also valid in Python, and their double quotes do not end the shell's single quotes.
    delimiter = json.dumps(_DELIMITERS[path.suffix.lower()])
    table = f"np.loadtxt({json.dumps(str(path))}, delimiter={delimiter}, skiprows=1)"
    written = f"np.savez({json.dumps(str(path.with_suffix('.npz')))}, x=t[:, :-1], y=t[:, -1].astype(int))"
    code = f"import numpy as np; t = {table}; {written}"
    return (
        "it is text. If its first line has names and its last column the labels, this makes a .npz file of it: "
        f"python -c {shlex.quote(code)}"
    )
