"""Models as bytes, in safetensors format, which holds tensors and no code."""

import safetensors.torch
import torch
from torch import nn

_LENGTH_BYTES = 8
# An upper bound on a tensor's entry in the header of safetensors, without its name.
_HEADER_BYTES = 512


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's state with contiguous copies: safetensors takes neither shared nor channels_last memory."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def model_to_bytes(model: nn.Module) -> bytes:
    """Return the model's whole state as bytes."""
    data: bytes = safetensors.torch.save(own_tensors(model))
    return data


def check_size(model: nn.Module, data: bytes | memoryview) -> None:
    """Raise ValueError if ``data`` does not have the length of this model's bytes. No tensor is read.

    The model may be on torch's meta device, with shapes and without values.
    """
    tensors = model.state_dict()
    size = sum(tensor.nbytes for tensor in tensors.values())
    # The header is JSON with its length in front, so this check also bounds the number of tensors in it.
    header = int.from_bytes(data[:_LENGTH_BYTES], "little")
    most = _HEADER_BYTES + sum(_HEADER_BYTES + 6 * len(name) for name in tensors)
    if header > most or _LENGTH_BYTES + header + size != len(data):
        raise ValueError(f"got {len(data):,} bytes, but this model has {size:,} and a header")


def load_model(model: nn.Module, data: bytes | memoryview) -> None:
    """Load the bytes of `model_to_bytes` into a model of the same architecture."""
    model.load_state_dict(safetensors.torch.load(bytes(data)))
