"""The IDX files of each data set, with their SHA-256 sums and official sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# The mirror that torchvision uses, since the authors' site has refused downloads for years.
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_QMNIST_URL = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"


@dataclass(frozen=True)
class IdxFile:
    """One IDX file. `sha256` covers its *uncompressed* bytes, so that any compression of the file is accepted."""

    name: str
    folder: str
    base_url: str
    sha256: str

    @property
    def url(self) -> str:
        """Return the URL of the gzip file."""
        return f"{self.base_url}{self.name}.gz"


@dataclass(frozen=True)
class IdxSource:
    """One data set: its files, and the constants that standardize its pixels (scaled to 0..1).

    `writers` is a table (N, 8) of int32 whose rows match the training images; `system_folder` is the folder
    of the operating system's package; `advice` names another way to get the data.
    """

    name: str
    train_images: IdxFile
    train_labels: IdxFile
    test_images: IdxFile
    test_labels: IdxFile
    mean: float
    std: float
    num_classes: int = 10
    writers: IdxFile | None = None
    system_folder: Path | None = None
    advice: str = ""

    @property
    def files(self) -> tuple[IdxFile, ...]:
        """Return all files, in reading order."""
        images_and_labels = (self.train_images, self.train_labels, self.test_images, self.test_labels)
        return images_and_labels if self.writers is None else (*images_and_labels, self.writers)


def _mnist(name: str, sha256: str) -> IdxFile:
    return IdxFile(name, "mnist", _MNIST_URL, sha256)


def _fashion(name: str, sha256: str) -> IdxFile:
    return IdxFile(name, "fashion-mnist", _FASHION_MNIST_URL, sha256)


_FASHION_MNIST = IdxSource(
    name="fashion-mnist",
    train_images=_fashion(
        "train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    train_labels=_fashion(
        "train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    test_images=_fashion("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    test_labels=_fashion("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    mean=0.2860,
    std=0.3530,
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    advice="on Debian or Ubuntu: apt-get install dataset-fashion-mnist",
)

_OTHER_DATA = (
    "take a data set that is easier to get: digits needs no files, and on Debian or Ubuntu "
    "apt-get install dataset-fashion-mnist gives fashion-mnist"
)

_MNIST = IdxSource(
    name="mnist",
    train_images=_mnist("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    train_labels=_mnist("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    test_images=_mnist("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    test_labels=_mnist("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    mean=0.1307,
    std=0.3081,
    advice=_OTHER_DATA,
)

_MNIST_WRITERS = IdxSource(
    name="mnist-writers",
    train_images=_MNIST.train_images,
    train_labels=_MNIST.train_labels,
    test_images=_MNIST.test_images,
    test_labels=_MNIST.test_labels,
    mean=_MNIST.mean,
    std=_MNIST.std,
    writers=IdxFile(
        "qmnist-train-labels-idx2-int",
        "qmnist",
        _QMNIST_URL,
        "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
    ),
    advice=_OTHER_DATA,
)

CATALOG: Mapping[str, IdxSource] = MappingProxyType(
    {source.name: source for source in (_FASHION_MNIST, _MNIST, _MNIST_WRITERS)}
)
"""All data sets that are read from IDX files, by name."""
