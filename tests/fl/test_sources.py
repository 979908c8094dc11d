"""Loading by name: the search order, checksums, downloads, and the loaded data."""

from __future__ import annotations

import gzip
import http.server
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl.data import DATASETS, Dataset, load_dataset
from fl.data.catalog import CATALOG
from fl.errors import ConfigError, DataError

MakeTiny = Callable[..., Any]


@dataclass
class Site:
    """A web site on the loopback interface."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append(self.path)
            content = found.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Site(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def check_tiny(dataset: Dataset, arrays: dict[str, np.ndarray]) -> None:
    """Check that `dataset` holds `arrays`, standardized with mean 0.25 and deviation 0.5 of the full scale."""
    for part, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        expected = (arrays[f"{part}-images"] / 255 - 0.25) / 0.5
        assert images.dtype == torch.float32
        assert images.shape == (len(expected), 1, 4, 3)
        np.testing.assert_allclose(images.squeeze(1).numpy(), expected, atol=1e-6)
        assert labels.dtype == torch.int64
        assert labels.tolist() == arrays[f"{part}-labels"].tolist()


# Places of a file, in the order of the search: (folder, gzip or raw).
PLACES = [
    (folder, packed)
    for folder in ("given/tiny", "given", "variable/tiny", "variable", "system", "user-cache/secagg/tiny")
    for packed in (False, True)
]


@pytest.mark.usefixtures("user_cache")
@pytest.mark.parametrize("rank", range(len(PLACES)), ids=[f"{f}{'-gz' * p}" for f, p in PLACES])
def test_search_order(rank: int, tmp_path: Path, make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_tiny(system_folder=tmp_path / "system")
    monkeypatch.setenv("SECAGG_DATA", str(tmp_path / "variable"))
    (tmp_path / "given").mkdir()
    folder, packed = PLACES[rank]

    # Damaged files in all later places are not read ...
    for later, later_packed in PLACES[rank + 1 :]:
        tiny.write(tmp_path / later, packed=later_packed, damaged=True)
    tiny.write(tmp_path / folder, packed=packed)
    check_tiny(load_dataset("tiny", tmp_path / "given", catalog=tiny.catalog), tiny.arrays)

    # ... and a damaged file here is refused, though good ones follow.
    for later, later_packed in PLACES[rank + 1 :]:
        tiny.write(tmp_path / later, packed=later_packed)
    tiny.write(tmp_path / folder, packed=packed, damaged=True)
    with pytest.raises(DataError) as caught:
        load_dataset("tiny", tmp_path / "given", catalog=tiny.catalog)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / folder / 'train-labels'}{'.gz' * packed}: ")
    assert tiny.file("train-labels").sha256 in message


@pytest.mark.usefixtures("user_cache")
def test_wrong_sum_names_both_sums(tmp_path: Path, make_tiny: MakeTiny) -> None:
    tiny, other = make_tiny(), make_tiny(train_labels=np.array([1, 1, 1, 1, 1], dtype=np.uint8))
    other.write(tmp_path)
    with pytest.raises(DataError) as caught:
        load_dataset("tiny", tmp_path, catalog=tiny.catalog)
    for expected in (tiny.file("train-labels").sha256, other.file("train-labels").sha256):
        assert expected in str(caught.value)


def test_offline_error_says_where_and_how(
    tmp_path: Path,
    make_tiny: MakeTiny,
    user_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("SECAGG_DATA", str(tmp_path / "variable"))
    tiny = make_tiny(system_folder=tmp_path / "system")
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_dataset("tiny", tmp_path, catalog=tiny.catalog)
    assert time.monotonic() - began < 3
    message = str(caught.value)
    for place in (tmp_path, tmp_path / "tiny", tmp_path / "variable", tmp_path / "system", user_cache / "tiny"):
        assert f"  - {place} (" in message
    for way in ("refused", tiny.file("train-labels").url, "--data-dir", "SECAGG_DATA", "grow your own", "connect"):
        assert way in message
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert not user_cache.exists()


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist", "mnist-writers"])
@pytest.mark.usefixtures("user_cache")
def test_every_data_set_says_how_to_get_it(name: str) -> None:
    catalog = {name: replace(CATALOG[name], system_folder=None)}
    with pytest.raises(DataError) as caught:
        load_dataset(name, download=False, catalog=catalog)
    for way in ("apt-get install dataset-fashion-mnist", "--data-dir", "SECAGG_DATA", "connect", "turned off"):
        assert way in str(caught.value)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "raw"])
def test_download_is_verified_and_kept(
    packed: bool, make_tiny: MakeTiny, site: Site, user_cache: Path, closed_url: str
) -> None:
    tiny = make_tiny(base_url=site.url)
    for name, content in tiny.contents.items():
        # A server may unpack on the way; only the content counts.
        site.files[f"{name}.gz"] = gzip.compress(content) if packed else content
    check_tiny(load_dataset("tiny", catalog=tiny.catalog), tiny.arrays)
    suffix = ".gz" * packed
    assert {path.name for path in (user_cache / "tiny").iterdir()} == {f"{n}{suffix}" for n in tiny.contents}

    site.requests.clear()
    check_tiny(load_dataset("tiny", catalog=tiny.catalog), tiny.arrays)
    assert site.requests == []


def test_download_with_wrong_sum_is_refused_and_not_kept(make_tiny: MakeTiny, site: Site, user_cache: Path) -> None:
    tiny = make_tiny(base_url=site.url)
    site.files["train-labels.gz"] = gzip.compress(tiny.contents["train-labels"] + b"\0")
    with pytest.raises(DataError, match=tiny.file("train-labels").sha256) as caught:
        load_dataset("tiny", catalog=tiny.catalog)
    assert str(caught.value).startswith(tiny.file("train-labels").url)
    assert not user_cache.exists()


def test_a_download_is_tried_once_and_its_failure_reported(make_tiny: MakeTiny, site: Site, user_cache: Path) -> None:
    tiny = make_tiny(base_url=site.url)
    with pytest.raises(DataError, match="404"):
        load_dataset("tiny", catalog=tiny.catalog)
    assert site.requests == ["/train-labels.gz"]
    assert not user_cache.exists()


@pytest.mark.usefixtures("user_cache")
def test_endless_download_is_cut_off(make_tiny: MakeTiny, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl.data.download.MAX_BYTES", 1000)
    site.files["train-labels.gz"] = bytes(1_000_000)
    with pytest.raises(DataError, match="more than 1000 bytes"):
        load_dataset("tiny", catalog=make_tiny(base_url=site.url).catalog)


@pytest.mark.usefixtures("user_cache")
def test_no_download_means_no_request(make_tiny: MakeTiny, site: Site) -> None:
    with pytest.raises(DataError, match="turned off"):
        load_dataset("tiny", download=False, catalog=make_tiny(base_url=site.url).catalog)
    assert site.requests == []


def test_an_unwritable_cache_does_not_stop_a_download(make_tiny: MakeTiny, site: Site, user_cache: Path) -> None:
    tiny = make_tiny(base_url=site.url)
    site.files = {f"{name}.gz": content for name, content in tiny.contents.items()}
    user_cache.parent.mkdir(parents=True)
    user_cache.write_text("a file where the folder should be")
    check_tiny(load_dataset("tiny", catalog=tiny.catalog), tiny.arrays)


def test_failed_write_leaves_no_part_in_the_cache(
    make_tiny: MakeTiny, site: Site, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = make_tiny(base_url=site.url)
    site.files = {f"{name}.gz": content for name, content in tiny.contents.items()}

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", disk_full)
    check_tiny(load_dataset("tiny", catalog=tiny.catalog), tiny.arrays)
    assert [path for path in user_cache.rglob("*") if path.is_file()] == []


def table_of(classes: list[int], writers: list[int]) -> np.ndarray:
    table = np.full((len(classes), 8), -1, dtype=np.int32)
    table[:, 0], table[:, 2] = classes, writers
    return table


@pytest.mark.usefixtures("user_cache")
def test_writers_come_from_their_own_table(tmp_path: Path, make_tiny: MakeTiny) -> None:
    tiny = make_tiny(writers=table_of([0, 1, 2, 1, 0], [70_000, 4, 4, 9, 70_000]))
    tiny.write(tmp_path / "tiny")
    (tmp_path / "tinytable").mkdir()
    (tmp_path / "tiny" / "writers").rename(tmp_path / "tinytable" / "writers")
    dataset = load_dataset("tiny", tmp_path, catalog=tiny.catalog)
    assert dataset.train_writers is not None
    assert dataset.train_writers.dtype == np.int64
    assert dataset.train_writers.tolist() == [70_000, 4, 4, 9, 70_000]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"writers": table_of([0, 1, 2, 1, 1], [1, 2, 3, 4, 5])}, "its classes differ from the training labels"),
        ({"writers": table_of([0, 1, 2, 1], [1, 2, 3, 4])}, "one row per image"),
        ({"writers": np.zeros((5, 8), dtype=np.uint8)}, "int32 with 2 expected"),
        ({"train_images": np.zeros((5, 12), dtype=np.uint8)}, "uint8 with 3 expected"),
        ({"train_images": np.zeros((6, 4, 3), dtype=np.uint8)}, "one int64 for each of the 6 images"),
        ({"test_images": np.zeros((2, 4, 4), dtype=np.uint8)}, "test images"),
        ({"test_labels": np.array([0, 3], dtype=np.uint8)}, r"0\.\.2"),
    ],
)
@pytest.mark.usefixtures("user_cache")
def test_files_that_do_not_fit_each_other(
    arrays: dict[str, np.ndarray], complaint: str, tmp_path: Path, make_tiny: MakeTiny
) -> None:
    tiny = make_tiny(**arrays)
    tiny.write(tmp_path)
    with pytest.raises(DataError, match=complaint):
        load_dataset("tiny", tmp_path, catalog=tiny.catalog)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="digits, fashion-mnist, mnist, mnist-writers"):
        load_dataset("cifar")
    assert DATASETS == ("digits", "fashion-mnist", "mnist", "mnist-writers", "leaf-femnist")


def test_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_dataset("mnist", tmp_path / "mistyped", download=False)


def test_digits() -> None:
    dataset = load_dataset("digits")
    assert dataset.train_images.shape == (1442, 1, 8, 8)
    assert dataset.test_images.shape == (355, 1, 8, 8)
    assert dataset.train_writers is None
    # Stratified: every class gives a fifth of its images, rounded down.
    trained = np.bincount(dataset.train_labels)
    tested = np.bincount(dataset.test_labels)
    assert np.array_equal(tested, (trained + tested) // 5)
    assert abs(float(dataset.train_images.mean())) < 0.01
    assert abs(float(dataset.train_images.std()) - 1) < 0.01


def test_digits_splits_all_of_them_always_alike() -> None:
    from sklearn.datasets import load_digits

    dataset, again = load_dataset("digits"), load_dataset("digits")
    assert torch.equal(dataset.train_images, again.train_images)
    images = torch.cat([dataset.train_images, dataset.test_images])
    pixels = (images * 0.3760 + 0.3053).mul(16).round().reshape(-1, 64).numpy()
    ours = sorted(zip(map(tuple, pixels), torch.cat([dataset.train_labels, dataset.test_labels]).tolist(), strict=True))
    raw, labels = load_digits(return_X_y=True)
    assert ours == sorted(zip(map(tuple, raw), labels.tolist(), strict=True))
    # The test images are not the first or last ones of the file: those are of other writers.
    assert dataset.test_labels.tolist()[:5] == labels[np.flatnonzero(is_fifth(labels))].tolist()[:5]


def is_fifth(labels: np.ndarray) -> np.ndarray:
    """Return whether an example is the 5th, 10th, ... of its class, counted one by one."""
    seen = dict.fromkeys(range(10), 0)
    chosen = []
    for label in labels.tolist():
        seen[label] += 1
        chosen.append(seen[label] % 5 == 0)
    return np.array(chosen)


@pytest.mark.data
def test_mnist_by_writer(mnist_folder: Path) -> None:
    dataset = load_dataset("mnist-writers", mnist_folder, download=False)
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert dataset.test_images.shape == (10_000, 1, 28, 28)
    assert dataset.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.train_writers is not None
    _, counts = np.unique(dataset.train_writers, return_counts=True)
    assert (len(counts), counts.min(), counts.max()) == (539, 19, 131)
    assert abs(float(dataset.train_images.mean())) < 0.01
    assert abs(float(dataset.train_images.std()) - 1) < 0.01


@pytest.mark.data
def test_mnist_has_no_writers(mnist_folder: Path) -> None:
    assert load_dataset("mnist", mnist_folder, download=False).train_writers is None


@pytest.mark.data
def test_fashion_mnist_from_the_system_package(fashion_mnist_folder: Path, user_cache: Path) -> None:
    dataset = load_dataset("fashion-mnist", download=False)
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert np.bincount(dataset.train_labels).tolist() == [6_000] * 10
    assert abs(float(dataset.train_images.mean())) < 0.01
    assert abs(float(dataset.train_images.std()) - 1) < 0.01


@pytest.mark.data
@pytest.mark.usefixtures("user_cache")
def test_one_data_set_is_not_taken_for_another(fashion_mnist_folder: Path) -> None:
    # Both data sets have the same file names; only the checksums tell them apart.
    with pytest.raises(DataError, match="not mnist's train-labels-idx1-ubyte"):
        load_dataset("mnist", fashion_mnist_folder, download=False)
