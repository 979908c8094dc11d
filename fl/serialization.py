"""Models as bytes: safetensors, which holds tensors and nothing that could run."""

import safetensors.torch
import torch
from torch import nn


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state, each tensor a contiguous copy: safetensors takes neither shared nor channels_last memory."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def model_to_bytes(model: nn.Module) -> bytes:
    """The model's whole state."""
    data: bytes = safetensors.torch.save(own_tensors(model))
    return data


def load_model(model: nn.Module, data: bytes) -> None:
    """Put what `model_to_bytes` gave into a model of the same architecture."""
    model.load_state_dict(safetensors.torch.load(data))
