"""The training: the network of McMahan et al. (2017) with two hidden layers, on a part of MNIST for each client."""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fl.data import Dataset, load_dataset
from fl.learning.models import build_model
from fl.learning.settings import Local
from fl.learning.training import evaluate, train

EXAMPLES = 300
"""Training examples of each client."""

MODEL = "2nn"
TRAINING = Local(epochs=1, batch_size=20, learning_rate=0.1, momentum=0.5)

Weights = list[np.ndarray]


@lru_cache(maxsize=1)
def dataset() -> Dataset:
    """Load MNIST from SECAGG_DATA or the user's cache, once in each process."""
    torch.set_num_threads(1)
    folder = os.environ.get("SECAGG_DATA")
    return load_dataset("mnist", Path(folder) if folder else None, download=False)


def new_model() -> nn.Module:
    """Return the initial model of all runs."""
    return build_model(MODEL, image_shape=(1, 28, 28), num_classes=10, seed=1)


def weights_of(model: nn.Module) -> Weights:
    """Return a model's tensors in its own order."""
    return [tensor.detach().numpy() for tensor in model.state_dict().values()]


def model_with(weights: Weights) -> nn.Module:
    """Return a model with these tensors."""
    model = new_model()
    names = model.state_dict().keys()
    model.load_state_dict({name: torch.tensor(array) for name, array in zip(names, weights, strict=True)})
    return model


def trained(weights: Weights, client: int) -> tuple[Weights, float]:
    """Train a client; return its weights and mean loss, which are the same in all runs."""
    data = dataset()
    part = torch.from_numpy(np.random.default_rng(client).permutation(len(data.train_labels))[:EXAMPLES])
    model = model_with(weights)
    result = train(model, data.train_images[part], data.train_labels[part], TRAINING, seed=client)
    return weights_of(model), result.loss_sum / result.num_examples


def accuracy(weights: Weights) -> float:
    """Return the accuracy on MNIST's 10,000 test images."""
    data = dataset()
    return evaluate(model_with(weights), data.test_images, data.test_labels).accuracy
