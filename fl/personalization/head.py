"""A model's last layer, and its inputs."""

from __future__ import annotations

import torch
from torch import nn

from fl.errors import ConfigError

_BATCH = 500


def classifier_head(model: nn.Module) -> nn.Linear:
    """Return the last linear layer in the model's building order.

    Raises ConfigError if there is none, or it is frozen.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ConfigError("the model has no linear layer to fine-tune: fine-tune the whole model")
    if not any(parameter.requires_grad for parameter in layers[-1].parameters()):
        raise ConfigError("the model's last linear layer is frozen: fine-tune the whole model")
    return layers[-1]


def head_inputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the inputs of `classifier_head` for each image in evaluation mode, float32 (N, features).

    Raises ConfigError if its output is not the model's output: training it alone would then train something else.
    """
    head = classifier_head(model)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((inputs[0], output))

    was_training = [(module, module.training) for module in model.modules()]
    hook = head.register_forward_hook(note)
    features = []
    try:
        model.eval()
        with torch.no_grad():
            for batch in torch.split(images, _BATCH):
                seen.clear()
                logits = model(batch)
                if len(seen) != 1 or not torch.equal(seen[0][1], logits):
                    raise ConfigError(
                        "the model's last linear layer does not give its output: fine-tune the whole model"
                    )
                features.append(seen[0][0])
    finally:
        hook.remove()
        for module, training in was_training:
            module.training = training
    return torch.cat(features)
