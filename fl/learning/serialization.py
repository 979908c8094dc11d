"""Models as bytes, in safetensors format, which holds tensors and no code.

A file has a model's whole state. A round's message has what travels (`fl.learning.parameter_layout`): its receiver has
made the frozen parameters itself.
"""

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import nn

from fl.learning.parameter_layout import travelling_state

_LENGTH_BYTES = 8
# An upper bound on a tensor's entry in the header of safetensors, without its name.
_HEADER_BYTES = 512


def own_tensors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return contiguous copies of a model's tensors: safetensors takes neither shared nor channels_last memory."""
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def model_to_bytes(model: nn.Module) -> bytes:
    """Return the model's whole state as bytes."""
    data: bytes = safetensors.torch.save(own_tensors(model.state_dict()))
    return data


def round_message(model: nn.Module) -> bytes:
    """Return the model's travelling state as bytes."""
    data: bytes = safetensors.torch.save(own_tensors(travelling_state(model)))
    return data


def check_size(model: nn.Module, data: bytes | memoryview) -> None:
    """Raise ValueError if ``data`` does not have the length of this model's `round_message`. No tensor is read.

    The model may be on torch's meta device, with shapes and without values.
    """
    tensors = travelling_state(model)
    size = sum(tensor.nbytes for tensor in tensors.values())
    # The header is JSON with its length in front, so this check also bounds the number of tensors in it.
    header = int.from_bytes(data[:_LENGTH_BYTES], "little")
    most = _HEADER_BYTES + sum(_HEADER_BYTES + 6 * len(name) for name in tensors)
    if header > most or _LENGTH_BYTES + header + size != len(data):
        raise ValueError(f"got {len(data):,} bytes, but this model has {size:,} and a header")


def load_model(model: nn.Module, data: bytes | memoryview) -> None:
    """Load the bytes of `model_to_bytes` into a model of the same architecture."""
    model.load_state_dict(safetensors.torch.load(bytes(data)))


def load_round_message(model: nn.Module, data: bytes | memoryview) -> None:
    """Load the bytes of `round_message` into a model of the same architecture with the same frozen parameters."""
    load_travelling(model, safetensors.torch.load(bytes(data)))


def load_travelling(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load a `travelling_state` into a model. Raises ValueError for other names, RuntimeError for other shapes."""
    if different := tensors.keys() ^ travelling_state(model).keys():
        raise ValueError(f"{', '.join(sorted(different))}: these tensors are on one side only")
    model.load_state_dict(tensors, strict=False)
