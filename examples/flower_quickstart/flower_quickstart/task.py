"""The model, the data of each node, and the training and test of a node."""

from pathlib import Path

import torch
from torch import nn

from fl.data import Dataset, load_dataset
from fl.data.partition import iid
from fl.learning.models import build_model
from fl.learning.settings import Local
from fl.learning.training import evaluate as measure
from fl.learning.training import train as fit

SEED = 7


def load(config: dict[str, bool | float | int | str]) -> Dataset:
    """Return the data set that the run names; digits come with scikit-learn, others are in ``data-dir``."""
    folder = str(config["data-dir"])
    return load_dataset(str(config["dataset"]), Path(folder) if folder else None, download=False)


def make_model(dataset: Dataset) -> nn.Module:
    """Return a small convolutional network with the same initial weights on all nodes."""
    _, channels, height, width = dataset.train_images.shape
    return build_model("small-cnn", image_shape=(channels, height, width), num_classes=dataset.num_classes, seed=SEED)


def train(model: nn.Module, dataset: Dataset, node: int, nodes: int, *, epochs: int, lr: float) -> tuple[float, int]:
    """Train on the node's part of the training examples; return the mean loss and the number of examples."""
    part = torch.from_numpy(iid(dataset.train_labels.numpy(), nodes, SEED)[node])
    settings = Local(epochs=epochs, batch_size=32, learning_rate=lr, momentum=0.9)
    result = fit(model, dataset.train_images[part], dataset.train_labels[part], settings, seed=node)
    return result.loss_sum / result.num_examples, len(part)


def test(model: nn.Module, dataset: Dataset, node: int, nodes: int) -> tuple[float, float, int]:
    """Return loss, accuracy and number of examples on the node's part of the test examples."""
    part = torch.arange(node, len(dataset.test_labels), nodes)
    result = measure(model, dataset.test_images[part], dataset.test_labels[part])
    return result.loss, result.accuracy, len(part)
