"""A small model with the usual parts of torch models beside weights: running statistics and an integer counter."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        # Each process that needs the model makes it: all make the same one.
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))
