"""Five hospitals of unequal size train a classifier of breast tumours without showing their patients or updates.

569 biopsies with 30 measurements each (Street, Wolberg and Mangasarian 1993), included in scikit-learn.

    cd examples/hospitals
    secagg train --config hospitals.toml
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from fl.data import Dataset

SHARES = (0.40, 0.25, 0.18, 0.12, 0.05)
NUM_TEST = 114


def make_model(example_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return a logistic regression: one weight for each measurement and class."""
    (num_features,) = example_shape
    return nn.Linear(num_features, num_classes)


def load(data_dir: Path | None) -> Dataset:
    """Return the biopsies, divided among the hospitals; all share the test set."""
    measurements, diagnoses = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(diagnoses))
    # The range of each measurement is published with the data set (its DESCR), so nobody needs all patients to scale.
    low, high = measurements.min(axis=0), measurements.max(axis=0)
    scaled = 6 * np.sqrt((measurements[order] - low) / (high - low)) - 3
    examples = torch.tensor(scaled, dtype=torch.float32)
    classes = torch.tensor(diagnoses[order], dtype=torch.int64)
    bounds = np.cumsum(SHARES)[:-1] * (len(classes) - NUM_TEST)
    hospital = np.searchsorted(bounds, np.arange(len(classes) - NUM_TEST), side="right")
    return Dataset(
        name="hospitals",
        train_images=examples[NUM_TEST:],
        train_labels=classes[NUM_TEST:],
        test_images=examples[:NUM_TEST],
        test_labels=classes[:NUM_TEST],
        num_classes=2,
        train_writers=hospital.astype(np.int64),
    )
