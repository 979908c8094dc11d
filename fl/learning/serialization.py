"""Models as bytes: safetensors, which holds tensors and nothing that could run."""

import safetensors.torch
import torch
from torch import nn

_LENGTH_BYTES = 8
# More than what safetensors' header says of a tensor, its name apart.
_HEADER_BYTES = 512


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


def check_size(model: nn.Module, data: bytes | memoryview) -> None:
    """ValueError unless ``data`` is as long as what `model_to_bytes` gives of such a model. No tensor is looked at.

    The model may be on torch's meta device, where it has shapes and no values.
    """
    tensors = model.state_dict()
    size = sum(tensor.nbytes for tensor in tensors.values())
    # A header, in JSON, with its own length before it: how many tensors it can hold is bounded by its length.
    header = int.from_bytes(data[:_LENGTH_BYTES], "little")
    most = _HEADER_BYTES + sum(_HEADER_BYTES + 6 * len(name) for name in tensors)
    if header > most or _LENGTH_BYTES + header + size != len(data):
        raise ValueError(f"{len(data):,} bytes came, and such a model has {size:,} and a header")


def load_model(model: nn.Module, data: bytes | memoryview) -> None:
    """Put what `model_to_bytes` gave into a model of the same architecture."""
    model.load_state_dict(safetensors.torch.load(bytes(data)))
