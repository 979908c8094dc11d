"""Data for the tests of `fl/`: tiny IDX data sets made on the spot, and real ones if they are installed."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.data.catalog import CATALOG, IdxFile, IdxSource

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: tiny tensors gain nothing from more, which wait long for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """Return a folder with MNIST and QMNIST's labels: SECAGG_DATA, or shared/data beside the repository."""
    candidates = [Path(os.environ["SECAGG_DATA"])] if os.environ.get("SECAGG_DATA") else []
    candidates.append(_REPOSITORY.parent / "shared" / "data")
    for folder in candidates:
        if (folder / "mnist").is_dir() and (folder / "qmnist").is_dir():
            return folder
    pytest.skip(f"no mnist/ and qmnist/ in {' or '.join(map(str, candidates))}; set SECAGG_DATA")


@pytest.fixture(scope="session")
def fashion_mnist_folder() -> Path:
    """Return the folder of Debian's package dataset-fashion-mnist."""
    folder = CATALOG["fashion-mnist"].system_folder
    assert folder is not None
    if not folder.is_dir():
        pytest.skip(f"no {folder}; apt-get install dataset-fashion-mnist")
    return folder


def encode_idx(array: np.ndarray) -> bytes:
    """Return the IDX bytes of a uint8 or int32 array, written from the format's description."""
    type_code = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    header = struct.pack(f">HBB{array.ndim}I", 0, type_code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(scope="session")
def to_idx() -> Callable[[np.ndarray], bytes]:
    return encode_idx


@dataclass
class TinyData:
    """A data set like MNIST with a few images: its arrays, its bytes, its catalog."""

    arrays: dict[str, np.ndarray]
    base_url: str
    system_folder: Path | None = None
    contents: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.contents = {name: encode_idx(array) for name, array in self.arrays.items()}

    def file(self, name: str) -> IdxFile:
        folder = "tinytable" if name == "writers" else "tiny"
        return IdxFile(name, folder, self.base_url, hashlib.sha256(self.contents[name]).hexdigest())

    @property
    def catalog(self) -> Mapping[str, IdxSource]:
        source = IdxSource(
            name="tiny",
            train_images=self.file("train-images"),
            train_labels=self.file("train-labels"),
            test_images=self.file("test-images"),
            test_labels=self.file("test-labels"),
            mean=0.25,
            std=0.5,
            num_classes=3,
            writers=self.file("writers") if "writers" in self.contents else None,
            system_folder=self.system_folder,
            advice="grow your own",
        )
        return {"tiny": source}

    def write(self, folder: Path, *, packed: bool = False, damaged: bool = False) -> None:
        """Put all files directly into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            written = content[:-1] + bytes([content[-1] ^ 1]) if damaged else content
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(written))
            else:
                (folder / name).write_bytes(written)


@pytest.fixture
def make_tiny(closed_url: str) -> Callable[..., TinyData]:
    """Return a maker of TinyData with 5 training and 2 test images of 4x3, whose downloads fail by default."""

    def make(*, base_url: str = closed_url, system_folder: Path | None = None, **arrays: np.ndarray) -> TinyData:
        rng = np.random.default_rng(7)
        standard = {
            "train-images": rng.integers(0, 256, (5, 4, 3), dtype=np.uint8),
            "train-labels": np.array([0, 1, 2, 1, 0], dtype=np.uint8),
            "test-images": rng.integers(0, 256, (2, 4, 3), dtype=np.uint8),
            "test-labels": np.array([2, 1], dtype=np.uint8),
        }
        given = {name.replace("_", "-"): array for name, array in arrays.items()}
        return TinyData(standard | given, base_url, system_folder)

    return make


@pytest.fixture(scope="session")
def closed_url() -> str:
    """Return a URL on this machine where no process listens: a connection is refused at once."""
    # Port 1 (tcpmux) is reserved and cannot be given to another process as a free port.
    return "http://127.0.0.1:1/"


@pytest.fixture
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty user cache, without SECAGG_DATA and proxy: this machine's settings do not reach the test."""
    cache = tmp_path / "user-cache"
    monkeypatch.setattr("pooch.os_cache", lambda project: cache / project)
    monkeypatch.delenv("SECAGG_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    return cache / "secagg"
