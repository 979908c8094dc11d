"""Labeled image data sets, and their partition among clients."""

from fl.data.dataset import Dataset
from fl.data.sources import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "load_dataset"]
