"""FEMNIST in LEAF's JSON: the data read, their order, the memory used, and the refusals."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from fl.commands.app import app
from fl.config.run_config import RunConfig
from fl.data import Dataset, load_dataset
from fl.data.partition import partition
from fl.errors import DataError

Writers = dict[str, list[tuple[list[float], int]]]

PIXELS = 784


def picture(seed: int) -> list[float]:
    """Return gray levels, one for each pixel, k/255 as LEAF writes them, most of them paper."""
    rng = np.random.default_rng(seed)
    levels = np.where(rng.random(PIXELS) < 0.8, 255, rng.integers(0, 256, PIXELS))
    return (levels / 255).tolist()


def some_writers(*names: str, count: int = 3, first: int = 0) -> Writers:
    """Return writers with `count` own characters each."""
    return {
        name: [(picture(first + 100 * place + number), (7 * place + number) % 62) for number in range(count)]
        for place, name in enumerate(names)
    }


def leaf_json(writers: Writers) -> dict[str, Any]:
    """Return JSON as LEAF's data_to_json.py makes it."""
    return {
        "users": list(writers),
        "num_samples": [len(examples) for examples in writers.values()],
        "user_data": {
            name: {"x": [image for image, _ in examples], "y": [label for _, label in examples]}
            for name, examples in writers.items()
        },
    }


def write(folder: Path, part: str, number: int, content: Any) -> Path:
    path = folder / part / f"all_data_{number}_niid_0_keep_0_{part}_9.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def leaf_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with three writers in two training files, and another one in the test file."""
    monkeypatch.delenv("SECAGG_DATA", raising=False)
    folder = tmp_path / "femnist"
    write(folder, "train", 0, leaf_json(some_writers("f0001_41", "f0000_14", count=3)))
    write(folder, "train", 1, leaf_json(some_writers("f0100_00", count=5, first=1000)))
    write(folder, "test", 0, leaf_json(some_writers("f0200_07", count=4, first=2000)))
    return folder


def load(folder: Path) -> Dataset:
    return load_dataset("leaf-femnist", folder)


def test_every_example_is_its_writers(leaf_folder: Path) -> None:
    dataset = load(leaf_folder)
    written = [*some_writers("f0001_41", "f0000_14").values(), *some_writers("f0100_00", count=5, first=1000).values()]
    assert dataset.train_writers is not None
    assert dataset.train_writers.tolist() == [0] * 3 + [1] * 3 + [2] * 5
    assert dataset.train_labels.tolist() == [label for examples in written for _, label in examples]
    assert dataset.num_classes == 62
    assert dataset.image_shape == (1, 28, 28)
    # Ink is 1 and paper 0, then standardized as MNIST is.
    pixels = np.array([image for examples in written for image, _ in examples])
    expected = ((1 - pixels) - 0.1307) / 0.3081
    np.testing.assert_allclose(dataset.train_images.reshape(-1, PIXELS).numpy(), expected, atol=1e-5)
    assert dataset.train_images.dtype == torch.float32
    assert dataset.test_labels.tolist() == [label for _, label in some_writers("f0200_07", count=4)["f0200_07"]]


def test_each_writer_is_a_client(leaf_folder: Path) -> None:
    assert RunConfig.of(dataset="leaf-femnist", clients=3).partition == "by-writer"
    parts = partition(load(leaf_folder), "by-writer", 3, seed=0)
    assert sorted(part.tolist() for part in parts) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9, 10]]


def test_writers_without_examples_are_not_clients(leaf_folder: Path) -> None:
    content = leaf_json({"f0001_41": [], **some_writers("f0000_14")})
    # LEAF leaves this behind for writers of fewer than two characters, and does not list them.
    content["user_data"]["f0999_99"] = {"x": [], "y": []}
    write(leaf_folder, "train", 0, content)
    dataset = load(leaf_folder)
    assert dataset.train_writers is not None
    assert dataset.train_writers.tolist() == [0] * 3 + [1] * 5


def test_found_as_named_or_in_its_subfolder(leaf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(leaf_folder).train_labels.tolist()
    leaf_folder.rename(tmp_path / "leaf-femnist")
    assert load_dataset("leaf-femnist", tmp_path).train_labels.tolist() == expected
    monkeypatch.setenv("SECAGG_DATA", str(tmp_path))
    assert load_dataset("leaf-femnist").train_labels.tolist() == expected


def test_says_where_it_looked_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECAGG_DATA", raising=False)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    for words in (str(tmp_path), str(tmp_path / "leaf-femnist"), "preprocess.sh", "--data-dir", "SECAGG_DATA"):
        assert words in str(caught.value)
    with pytest.raises(DataError, match="none was named"):
        load_dataset("leaf-femnist")
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_a_part_without_examples(leaf_folder: Path) -> None:
    for path in (leaf_folder / "test").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="test: no examples in its 0 files"):
        load(leaf_folder)


def of_one_writer(**changes: Any) -> dict[str, Any]:
    """Return a file with one writer of two characters, with some of it replaced."""
    content = leaf_json(some_writers("f0000_14", count=2))
    entry = {**content["user_data"]["f0000_14"], **{key: changes.pop(key) for key in ("x", "y") if key in changes}}
    return {**content, "user_data": {"f0000_14": entry}, **changes}


def with_pixel(value: object) -> str:
    """Return a file whose second image has one other value, as text: it may be invalid JSON."""
    text = json.dumps(of_one_writer(x=[picture(0), [0.5] * (PIXELS - 1) + ["HERE"]]))
    return text.replace('"HERE"', str(value))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not JSON, or cut off"),
        (json.dumps(of_one_writer())[:-20], "not JSON, or cut off"),
        (json.dumps(of_one_writer()) + "x", "not JSON, or cut off"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "users, num_samples and user_data"),
        ({"users": [], "num_samples": []}, "users, num_samples and user_data"),
        (of_one_writer(users=[3]), "users must be a list of names"),
        (of_one_writer(users=["f0000_14"] * 2, num_samples=[2, 2]), "'f0000_14' is listed twice"),
        (of_one_writer(num_samples=[]), "num_samples must be a list of 1"),
        (of_one_writer(num_samples=[3]), "'f0000_14' has 2 examples, but num_samples says 3"),
        (of_one_writer(num_samples=[2.0]), "num_samples says 2.0"),
        (of_one_writer(users=["f0000_15"]), "'f0000_15' has no entry"),
        (of_one_writer(users=[], num_samples=[]), "'f0000_14' is in user_data, but not in users"),
        (of_one_writer(user_data=[]), "user_data must be an object"),
        (of_one_writer(user_data={"f0000_14": {"x": []}}), "'f0000_14' has no entry with x and y"),
        (of_one_writer(y=[1]), "'f0000_14': x and y must be lists of one length"),
        (of_one_writer(x={}), "'f0000_14': x and y must be lists of one length"),
        (of_one_writer(y=[1, 62]), "'f0000_14': class 62; whole numbers in 0..61"),
        (of_one_writer(y=[1, -1]), "class -1"),
        (of_one_writer(y=[1, 1.0]), "class 1.0"),
        (of_one_writer(y=[1, True]), "class True"),
        (of_one_writer(x=[picture(0), picture(1)[:-1]]), "'f0000_14': image 2 is 783 values"),
        (of_one_writer(x=[picture(0), 0.5]), "image 2 is not a list"),
        (with_pixel('"1"'), "'f0000_14': image 2 has a value that is not a number"),
        (with_pixel("true"), "image 2 has a value that is not a number"),
        (with_pixel("null"), "image 2 has a value that is not a number"),
        (with_pixel("255"), "image 2 has a pixel outside 0..1"),
        (with_pixel("-0.01"), "image 2 has a pixel outside 0..1"),
        (with_pixel("1e999"), "image 2 has a pixel outside 0..1"),
        (with_pixel("1" + "0" * 400), "image 2 has a pixel outside 0..1"),
        (with_pixel("1" + "0" * 5000), "not JSON, or cut off"),
        (with_pixel("NaN"), "NaN is not JSON"),
        (with_pixel('{"a": 1, "a": 2}'), "image 2 has a value that is not a number"),
        ('{"users": [], "users": [], "num_samples": [], "user_data": {}}', "'users' occurs twice"),
        (
            json.dumps(of_one_writer()).replace('"user_data": {', '"user_data": {"f0000_14": {"x": [], "y": []}, '),
            "'f0000_14' occurs twice",
        ),
        (json.dumps(of_one_writer()).replace('"y": [', '"y": [], "y": ['), "'f0000_14': 'y' occurs twice"),
    ],
)
def test_refuses_what_is_not_as_described(content: Any, complaint: str, leaf_folder: Path) -> None:
    path = write(leaf_folder, "train", 1, content)
    with pytest.raises(DataError) as caught:
        load(leaf_folder)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    # The complaint stays readable, however long the found text is.
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_writer_in_two_files_is_refused(leaf_folder: Path) -> None:
    path = write(leaf_folder, "train", 2, leaf_json(some_writers("f0000_14")))
    with pytest.raises(DataError) as caught:
        load(leaf_folder)
    assert str(caught.value).startswith(f"{path}: user 'f0000_14' is in all_data_0_niid_0_keep_0_train_9.json already")


def test_a_byte_order_mark_is_skipped(leaf_folder: Path) -> None:
    before = load(leaf_folder)
    for path in leaf_folder.rglob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert torch.equal(load(leaf_folder).train_images, before.train_images)


def test_bytes_that_are_not_text(leaf_folder: Path) -> None:
    path = write(leaf_folder, "train", 1, "")
    path.write_bytes(b'{"users": ["\xff"]}')
    with pytest.raises(DataError, match="not UTF-8 text"):
        load(leaf_folder)


def test_a_folder_that_has_the_name_of_a_file(leaf_folder: Path) -> None:
    (leaf_folder / "train" / "z.json").mkdir()
    with pytest.raises(DataError, match=r"z\.json: cannot be read"):
        load(leaf_folder)


def test_memory_stays_near_the_size_of_the_file(leaf_folder: Path) -> None:
    # 30 writers of 10 characters: Python lists of all floats at once would take several times the file's size.
    path = write(leaf_folder, "train", 0, leaf_json(some_writers(*(f"f{number}" for number in range(30)), count=10)))
    size = path.stat().st_size
    assert size > 1_500_000
    tracemalloc.start()
    try:
        dataset = load(leaf_folder)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert dataset.train_images.shape[0] == 305
    # The text twice while it is read; then the text, and the images as 32-bit numbers, twice at the very end.
    assert peak < 2.5 * size


def train(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.mark.slow
def test_command_line_trains_on_it(leaf_folder: Path, one_thread: None) -> None:
    result = train(
        *("--dataset", "leaf-femnist", "--data-dir", leaf_folder, "--clients", 3, "--model", "logistic"),
        *("--rounds", 1, "--epochs", 1, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["dataset"], summary["rounds"], summary["included"]) == ("leaf-femnist", 1, [3])


def test_command_line_says_what_is_wrong_in_a_line(leaf_folder: Path) -> None:
    path = write(leaf_folder, "train", 1, "{")
    result = train("--dataset", "leaf-femnist", "--data-dir", leaf_folder, "--clients", 3)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path}: not JSON")
