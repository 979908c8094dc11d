"""Labeled image sets, and how they are dealt out to clients."""

from fl.data.dataset import Dataset
from fl.data.sources import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "load_dataset"]
