"""Files of examples that are damaged, lie about their size, or are of another kind: one line, and no wasted memory."""

from __future__ import annotations

import io
import shlex
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.aggregation.session_policy import PolicyError
from fl.engines.local_worker import local_update
from fl.errors import DataError
from fl.learning.models import build_model
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.network.announcement import RoundAnnouncement
from fl.network.local_data import LocalData, load_arrays
from fl.network.policy import Policy
from secagg import Parameters, plan
from tests.fl.runs import assert_refused, invoke

X = np.random.default_rng(0).normal(size=(20, 8, 8)).astype(np.float32)
Y = np.arange(20) % 10


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(path: Path, kind: int, x: bytes, y: bytes) -> None:
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("x.npy", x)
        file.writestr("y.npy", y)


def encrypt(data: bytes) -> bytes:
    """Set the flag of a password in each entry of an archive."""
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := changed.find(mark, at + 1)) >= 0:
            changed[at + offset] |= 1
    return bytes(changed)


HUGE = npy(X).replace(b"(20, 8, 8), }", b"(20, 8, 8000000000), }")
BEYOND_INT64 = npy(X).replace(b"(20, 8, 8), }", b"(20, 8000000000, 8000000000), }")
NEGATIVE = npy(X).replace(b"(20, 8, 8), }", b"(20, -8, -8), }")


def overwritten(kind: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        archive(path, kind, npy(X), npy(Y))
        data = bytearray(path.read_bytes())
        data[100:600] = bytes(255 - value for value in data[100:600])
        path.write_bytes(data)

    return write


DAMAGED: dict[str, Callable[[Path], object]] = {
    **{f"damaged, kind {kind}": overwritten(kind) for kind in range(15) if kind in (0, 8, 12, 14)},
    "encrypted": lambda path: (
        archive(path, zipfile.ZIP_STORED, npy(X), npy(Y)),
        path.write_bytes(encrypt(path.read_bytes())),
    )[0],
    "of 5 TB": lambda path: archive(path, zipfile.ZIP_DEFLATED, HUGE, npy(Y)),
    "beyond 64 bits": lambda path: archive(path, zipfile.ZIP_DEFLATED, BEYOND_INT64, npy(Y)),
    "negative": lambda path: archive(path, zipfile.ZIP_DEFLATED, NEGATIVE, npy(Y)),
    "no array": lambda path: archive(path, zipfile.ZIP_STORED, b"hello", npy(Y)),
    "objects": lambda path: np.savez(path, x=X, y=Y.astype(object)),
    "other names": lambda path: np.savez(path, images=X, labels=Y),
    "empty archive": lambda path: zipfile.ZipFile(path, "w").close(),
    "text": lambda path: path.write_text("a,b\n1,2\n"),
    "one array": lambda path: path.write_bytes(npy(X)),
    "cut off": lambda path: (np.savez(path, x=X, y=Y), path.write_bytes(path.read_bytes()[:-300]))[0],
}


@pytest.mark.parametrize("write", DAMAGED.values(), ids=DAMAGED)
def test_unreadable_files_are_one_line_and_take_no_memory(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "mine.npz"
    write(path)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="no arrays x and y in it") as raised:
            load_arrays(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value)
    assert peak < 1 << 24  # LZMA needs 8 MB


@pytest.mark.parametrize("content", [HUGE, npy(X)[:200], npy(X)[:40], b"\x93NUMPY\x09\x00" + bytes(50)])
def test_files_beside_each_other_are_read_as_carefully(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match="no arrays x and y in it"):
        load_arrays(tmp_path)
    (tmp_path / "x.npy").write_bytes(npy(X))
    with pytest.raises(DataError, match=r"y\.npy: No such file"):
        load_arrays(tmp_path)
    (tmp_path / "y.npy").write_bytes(npy(Y))
    assert torch.equal(load_arrays(tmp_path).images, torch.tensor(X))


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_whole_archives_are_read(tmp_path: Path, kind: int) -> None:
    archive(tmp_path / "mine.npz", kind, npy(X), npy(Y))
    data = load_arrays(tmp_path)
    assert torch.equal(data.images, torch.tensor(X))
    assert data.labels.tolist() == Y.tolist()


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".txt", " ")])
def test_a_text_table_is_refused_with_the_command_to_convert_it(tmp_path: Path, suffix: str, delimiter: str) -> None:
    """The error names a command; it makes the archive."""
    folder = tmp_path / "it's my data"
    folder.mkdir()
    path = folder / f"patients{suffix}"
    rows = [f"{delimiter.join(map(str, (i, i / 2, i % 2)))}\n" for i in range(6)]
    path.write_text(delimiter.join("abc") + "\n" + "".join(rows))
    options = ("join", "localhost:1", "--plaintext", "--id", 0)
    refused = invoke(*options, "--arrays", path)
    assert_refused(refused, "it is text", "makes a .npz file of it")
    command = refused.stderr.partition("makes a .npz file of it: ")[2]
    subprocess.run(shlex.split(command), check=True, timeout=60)  # noqa: S603 - what a user would copy
    data = load_arrays(folder / "patients.npz")
    assert data.images.tolist() == [[i, i / 2] for i in range(6)]
    assert data.labels.tolist() == [i % 2 for i in range(6)]


def announcement(shape: tuple[int, ...]) -> tuple[RoundAnnouncement, Parameters]:
    model = build_model("logistic", image_shape=shape, num_classes=2, seed=0)
    scales = Scales((1.0, 1.0), 40)
    encoding = UpdateEncoding(sizes=ParameterLayout.of(model).sizes, num_clients=3, value_bits=16, scales=scales)
    announced = RoundAnnouncement(
        round=1, rounds=1, model="logistic", image_shape=shape, num_classes=2, value_bits=16, scales=scales,
        training=Local(epochs=1, batch_size=4, learning_rate=0.1), model_bytes=model_to_bytes(model),
    )  # fmt: skip
    params = plan(num_clients=3, vector_length=encoding.vector_length, value_bits=16).parameters
    return announced, params


@pytest.mark.parametrize(
    ("offered", "own"),
    [((12, 3), (12, 3)), ((1, 12, 3), (12, 3)), ((1, 12, 3), (1, 12, 3)), ((3, 2, 8, 8), (3, 2, 8, 8)), ((5,), (5,))],
)
def test_examples_of_any_shape_are_taken_as_they_are(
    tmp_path: Path, offered: tuple[int, ...], own: tuple[int, ...]
) -> None:
    """Series, volumes, tables; only images get the channel that a model of images needs."""
    x = np.random.default_rng(1).normal(size=(8, *own)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(8) % 2)
    data = load_arrays(tmp_path)
    announced, params = announcement(offered)
    model, _ = Policy().check_training(announced, params, data)
    fitting = data.shaped_for(offered)
    assert torch.equal(fitting.images, torch.tensor(x).reshape(8, *offered))
    update = local_update(model, fitting.images, fitting.labels, announced.training, seed=1, threads=1)
    assert update.num_examples == 8


@pytest.mark.parametrize(
    ("offered", "own"), [((3, 12), (12, 3)), ((1, 5), (5,)), ((1, 1, 8, 8), (1, 8, 8)), ((12, 3), (1, 12, 3))]
)
def test_examples_of_another_shape_are_refused(offered: tuple[int, ...], own: tuple[int, ...]) -> None:
    data = LocalData(torch.zeros(4, *own), torch.arange(4) % 2)
    announced, params = announcement(offered)
    with pytest.raises(PolicyError) as raised:
        Policy().check_training(announced, params, data)
    assert f"the model is for examples {offered}, but these are {own}" in str(raised.value)
