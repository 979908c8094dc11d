"""The data that the model is trained on. `experiment.toml` names it: data:load."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_wine

from fl.data import Dataset

NUM_OWNERS = 4


def load(data_dir: Path | None) -> Dataset:
    """Return chemical analyses of 178 Italian wines from three growers; replace this by your own data.

    `data_dir` is the folder given by `--data-dir`, or None. Examples are float32 (N, ...), labels int64 (N,) from 0.
    `train_writers` names the owner of each training example: with `partition = "by-owner"`, each owner is a client.
    """
    features, labels = load_wine(return_X_y=True)
    # Public constants are better in a real federation, where no one sees all features to measure their mean.
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    order = np.random.default_rng(0).permutation(len(labels))
    examples = torch.tensor(features[order], dtype=torch.float32)
    classes = torch.tensor(labels[order], dtype=torch.int64)
    num_train = 134
    return Dataset(
        name="wine",
        train_images=examples[:num_train],
        train_labels=classes[:num_train],
        test_images=examples[num_train:],
        test_labels=classes[num_train:],
        num_classes=3,
        train_writers=np.arange(num_train) % NUM_OWNERS,
    )
