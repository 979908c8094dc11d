"""FEMNIST in LEAF's JSON: characters by thousands of writers, each a client (Caldas et al. 2018, arXiv:1812.01097).

LEAF's preprocessing creates a folder with ``train/`` and ``test/``, each with files ``*.json`` of some writers:

    {"users": ["f0000_14", ...], "num_samples": [120, ...],
     "user_data": {"f0000_14": {"x": [[784 numbers in 0..1], ...], "y": [classes in 0..61]}, ...}}

A pixel is a gray level; 1 is the paper. With ``-t sample`` both folders have the same writers; with ``-t user`` the
test images come from other writers. Writers with fewer than two characters are not among the users then, but ``-t
sample`` leaves an empty entry for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from fl.data.dataset import Dataset
from fl.data.search import ENVIRONMENT_VARIABLE, named_folders
from fl.errors import DataError

LEAF_FEMNIST = "leaf-femnist"
"""The data set's name for `fl.data.load_dataset`."""

NUM_CLASSES = 62
_SIDE = 28
_PIXELS = _SIDE * _SIDE

# Images are inverted to white ink on black and standardized like MNIST, which shows similar handwriting.
_MEAN, _STD = 0.1307, 0.3081


@dataclass(frozen=True, slots=True, eq=False)
class _Examples:
    """Examples of one writer: images float32 (n, 784) as in the file, labels int64 (n,)."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Problem:
    """An error in a writer's entry, found before the parser knows the writer's name."""

    text: str


def find_leaf_femnist(data_dir: Path | None) -> Path:
    """Return the folder with train/ and test/: `data_dir` or SECAGG_DATA, each after its subfolder ``leaf-femnist``.

    Raises DataError, with the folders that were tried, if none exists.
    """
    tried = [place for _, folder in named_folders(data_dir) for place in (folder / LEAF_FEMNIST, folder)]
    for place in tried:
        try:
            if (place / "train").is_dir() and (place / "test").is_dir():
                return place
        except OSError as error:
            raise DataError(f"{place}: cannot be read ({error.strerror or error})") from error
    where = f"tried {', '.join(map(str, tried))}" if tried else "none was named"
    raise DataError(
        f"{LEAF_FEMNIST}: no folder with LEAF's train/ and test/ ({where}); make them with LEAF's "
        "data/femnist/preprocess.sh, -t sample or -t user, and name the folder that holds both with --data-dir "
        f"(argument data_dir) or the environment variable {ENVIRONMENT_VARIABLE}"
    )


def load_leaf_femnist(folder: Path) -> Dataset:
    """Load the data set in LEAF's ``folder``; writers are numbered from 0 in the order of the training files' users.

    Files are read one at a time, in the order of their names, and numbers become arrays writer by writer. Memory: at
    most twice a file's text, and 3,136 bytes per image.

    Raises DataError, naming the file and the user, for content that does not match the format above.
    """
    train_images, train_labels, counts = _read_part(folder / "train")
    test_images, test_labels, _ = _read_part(folder / "test")
    return Dataset(
        name=LEAF_FEMNIST,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=NUM_CLASSES,
        train_writers=np.repeat(np.arange(len(counts), dtype=np.int64), counts),
    )


def _read_part(folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return all images, standardized, (N, 1, 28, 28), their labels, and the number per user that has any."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
    users: dict[str, Path] = {}
    pieces: list[_Examples] = []
    for path in paths:
        for user, examples in _read_file(path).items():
            if user in users:
                _refuse(path, f"user {user!r} is in {users[user].name} already", "remove one of the files")
            users[user] = path
            pieces.append(examples)
    if not pieces:
        raise DataError(f"{folder}: no examples in its {len(paths)} files *.json")
    counts = [len(piece.labels) for piece in pieces]
    labels = np.concatenate([piece.labels for piece in pieces])
    images = np.empty((sum(counts), _PIXELS), dtype=np.float32)
    stop = len(images)
    # Copy from the last piece on, and free each piece after it is copied.
    while pieces:
        piece = pieces.pop()
        images[stop - len(piece.labels) : stop] = piece.images
        stop -= len(piece.labels)
    # (1 - x - mean) / std, in place.
    pixels = torch.from_numpy(images).sub_(1 - _MEAN).div_(-_STD)
    return pixels.view(-1, 1, _SIDE, _SIDE), torch.from_numpy(labels), counts


def _read_file(path: Path) -> dict[str, _Examples]:
    """Return the examples of the file's users that have any, in the file's order."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        _refuse(path, f"not UTF-8 text ({error.reason} at byte {error.start})", "")
    try:
        content = json.loads(text, object_pairs_hook=_compact, parse_constant=_no_number)
    except RecursionError:
        _refuse(path, "nested too deeply")
    except ValueError as error:  # JSONDecodeError is a ValueError; so is the error for numbers of thousands of digits.
        _refuse(path, f"not JSON, or cut off ({error})", "get the file again")
    if isinstance(content, _Problem):
        _refuse(path, content.text)
    if not isinstance(content, dict) or not {"users", "num_samples", "user_data"} <= content.keys():
        _refuse(path, "an object with users, num_samples and user_data is expected")
    users, num_samples, user_data = content["users"], content["num_samples"], content["user_data"]
    if not isinstance(users, list) or not all(isinstance(user, str) for user in users):
        _refuse(path, "users must be a list of names")
    if len(set(users)) != len(users):
        _refuse(path, f"user {next(user for user in users if users.count(user) > 1)!r} is listed twice")
    if not isinstance(num_samples, list) or len(num_samples) != len(users):
        _refuse(path, f"num_samples must be a list of {len(users)} numbers, one for each of users")
    if isinstance(user_data, _Problem):
        _refuse(path, f"user_data: {user_data.text}")
    if not isinstance(user_data, dict):
        _refuse(path, "user_data must be an object with an entry for each of users")
    found = {}
    for user, declared in zip(users, num_samples, strict=True):
        examples = _checked(path, user, user_data.pop(user, None))
        # JSON's 3.0 and true would also equal a number of examples.
        if type(declared) is not int or declared != len(examples.labels):
            _refuse(path, f"user {user!r} has {len(examples.labels)} examples, but num_samples says {declared!r}")
        if declared:
            found[user] = examples
    for user, entry in user_data.items():
        if len(_checked(path, user, entry).labels):
            _refuse(path, f"user {user!r} is in user_data, but not in users")
    return found


def _checked(path: Path, user: str, entry: object) -> _Examples:
    if isinstance(entry, _Problem):
        _refuse(path, f"user {user!r}: {entry.text}")
    if not isinstance(entry, _Examples):
        _refuse(path, f"user {user!r} has no entry with x and y in user_data")
    return entry


def _compact(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Examples | _Problem:
    """Turn a writer's numbers into arrays as soon as the object is parsed, before the next one is read.

    As a Python object a pixel takes 32 bytes; its text takes five.
    """
    entry = dict(pairs)
    if len(entry) != len(pairs):
        names = [name for name, _ in pairs]
        return _Problem(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    if "x" not in entry or "y" not in entry:
        return entry
    x, y = entry["x"], entry["y"]
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        return _Problem("x and y must be lists of one length")
    for number, row in enumerate(x):
        if not isinstance(row, list) or len(row) != _PIXELS:
            has = f"{len(row)} values" if isinstance(row, list) else "not a list"
            return _Problem(f"image {number + 1} is {has}; {_PIXELS} numbers are expected")
        if not set(map(type, row)) <= {float, int}:
            return _Problem(f"image {number + 1} has a value that is not a number")
        if not (min(row) >= 0 and max(row) <= 1):
            return _Problem(f"image {number + 1} has a pixel outside 0..1")
    for label in y:
        if type(label) is not int or not 0 <= label < NUM_CLASSES:
            return _Problem(f"class {label!r}; whole numbers in 0..{NUM_CLASSES - 1} are expected")
    images = np.array(x, dtype=np.float32).reshape(-1, _PIXELS)
    return _Examples(images, np.array(y, dtype=np.int64))


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _refuse(path: Path, what: str, remedy: str = "make the file again with LEAF's preprocessing") -> NoReturn:
    raise DataError(f"{path}: {what}{f'; {remedy}' if remedy else ''}")
