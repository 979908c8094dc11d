"""The model that is trained. `experiment.toml` names it: models:make_model."""

from torch import nn


def make_model(example_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return an untrained model: examples (N, *example_shape) in, logits (N, num_classes) out."""
    (num_features,) = example_shape
    return nn.Sequential(nn.Linear(num_features, 16), nn.ReLU(), nn.Linear(16, num_classes))
