"""Order and selection of the model state that travels between server and clients.

| state | treatment |
|---|---|
| float parameters that are trained | travel: flattened into one float32 vector, averaged |
| frozen parameters (`requires_grad=False`) | stay: each party makes its own, checked to be equal by their digest |
| float buffers (BatchNorm's running mean and variance) | travel and are averaged like parameters |
| integer and bool buffers (BatchNorm's `num_batches_tracked`) | only sent to clients: they keep the server's value |
| buffers outside the state dict (`persistent=False`) | never travel: the module makes them itself |
| optimizer state (momentum) | stays on the client, and starts anew in each round |

Buffers of frozen layers travel too: BatchNorm's statistics change in training mode, whether or not its weights do.

Integer buffers stay because they have no average: a rounded mean of counters is not a counter, and one client's value
would show that client's number of batches. The server's value is sufficient: it is the same at all clients when a round
begins. Code that trains several clients on one module must therefore reset the whole state before each client
(`fl.learning.serialization.load_round_message`); `load_vector` alone would keep the previous client's counters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fl.errors import FLError

Vector = npt.NDArray[np.float32]

_DIGEST_LABEL = b"secagg/fl/model-state/2"
_FROZEN_LABEL = b"secagg/fl/frozen-parameters/1"

NOTHING_FROZEN = sha256(_FROZEN_LABEL).digest()
"""The `frozen_digest` of a model that trains all its parameters."""


class LayoutError(FLError):
    """A model or a vector does not fit the layout."""


@dataclass(frozen=True)
class _Entry:
    """The place of one tensor in the vector: elements start..stop-1, in row-major order of its shape."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stop: int


@dataclass(frozen=True)
class ParameterLayout:
    """The places of a model's averaged tensors in one flat vector, in the order of its state dict.

    Two models can exchange vectors exactly if their layouts are equal. A tensor with several names (tied
    parameters) has one place, under its first name. The memory format (channels_last) does not matter: elements are
    always in the order of the shape.
    """

    entries: tuple[_Entry, ...]

    @classmethod
    def of(cls, module: nn.Module) -> ParameterLayout:
        """Return the layout of `module`. Raises LayoutError for state that is not a tensor, or complex numbers."""
        return cls(tuple(entry for entry, _ in _places(module)))

    @property
    def size(self) -> int:
        """Return the length of the vector."""
        return self.entries[-1].stop if self.entries else 0

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the tensors, in the vector's order."""
        return tuple(entry.name for entry in self.entries)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of elements of each tensor, in the vector's order."""
        return tuple(entry.stop - entry.start for entry in self.entries)

    def to_vector(self, module: nn.Module) -> Vector:
        """Return a new float32 vector (size,) with `module`'s averaged state.

        Tensors of other float types are converted (float64 is rounded). Raises LayoutError if
        `module` has a different layout.
        """
        vector = np.empty(self.size, dtype=np.float32)
        target = torch.from_numpy(vector)
        for entry, tensor in self._matching(module):
            target[entry.start : entry.stop].view(entry.shape).copy_(tensor)
        return vector

    def load_vector(self, module: nn.Module, vector: Vector) -> None:
        """Write `vector` into `module`, in place; tensors that do not travel are left as they are.

        Raises LayoutError, and changes nothing, if `module` has a different layout, `vector` is not a float32 array
        (size,) of finite numbers, or a number is too large for the tensor's own float type.
        """
        if not isinstance(vector, np.ndarray) or vector.dtype != np.float32 or vector.shape != (self.size,):
            found = f"{vector.dtype} {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
            raise LayoutError(f"the vector must be a float32 array ({self.size},), not {found}")
        matching = self._matching(module)
        for entry, _ in matching:
            part = vector[entry.start : entry.stop]
            limit = min(torch.finfo(entry.dtype).max, float(np.finfo(np.float32).max))
            # Not "any > limit", since a comparison with NaN is false.
            if not np.all(np.abs(part) <= limit):
                raise LayoutError(f"{entry.name} would get a number that is not finite in {entry.dtype}")
        # A copy, because torch takes neither read-only arrays nor negative strides.
        source = torch.from_numpy(np.array(vector, order="C"))
        with torch.no_grad():
            for entry, tensor in matching:
                tensor.copy_(source[entry.start : entry.stop].view(entry.shape))

    def _matching(self, module: nn.Module) -> list[tuple[_Entry, torch.Tensor]]:
        places = list(_places(module))
        if tuple(entry for entry, _ in places) != self.entries:
            raise LayoutError(
                "the model's layout (names, shapes, types, or ties of its tensors) differs from the one agreed on"
            )
        return places


def travelling_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return `module`'s own tensors that a round begins with, by name: its state dict without the frozen parameters.

    A tensor with several names has its first one. Raises LayoutError for state that is not a tensor.
    """
    first: dict[tuple[object, ...], str] = {}
    travelling = _split(module)[0]
    for name, tensor in travelling.items():
        first.setdefault(_memory(tensor), name)
    return {name: travelling[name] for name in first.values()}


def frozen_digest(module: nn.Module) -> bytes:
    """Return SHA-256 (32 bytes) of `module`'s frozen parameters, which each party makes; see `context_digest`."""
    return _digest(_FROZEN_LABEL, _split(module)[1])


def context_digest(module: nn.Module, frozen: bytes | None = None) -> bytes:
    """Return SHA-256 (32 bytes) of `module`'s whole state, to bind a session to the model that clients received.

    It covers `frozen`, the `frozen_digest` (None: computed here), and the entries of the travelling state, sorted by
    name: name, type, shape and values, each with its length, so that two states never give the same bytes to hash.
    Values are in row-major order, little-endian on all platforms that torch supports; the memory format does not change
    the digest.
    """
    travelling, stays = _split(module)
    return _digest(_DIGEST_LABEL + (_digest(_FROZEN_LABEL, stays) if frozen is None else frozen), travelling)


def _digest(prefix: bytes, tensors: dict[str, torch.Tensor]) -> bytes:
    digest = sha256(prefix)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        values = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data
        header = f"{tensor.dtype}{tuple(tensor.shape)}"
        for part in (name.encode(), header.encode(), values):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.digest()


def _split(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the state that travels and the frozen parameters, by all their names, in the state dict's order."""
    state = _state(module)
    is_frozen = {name: isinstance(tensor, nn.Parameter) and not tensor.requires_grad for name, tensor in state.items()}
    # A frozen parameter in the memory of a trained one changes with it.
    changing = {_memory(tensor) for name, tensor in state.items() if not is_frozen[name]}
    stays = {name: tensor for name, tensor in state.items() if is_frozen[name] and _memory(tensor) not in changing}
    return {name: tensor for name, tensor in state.items() if name not in stays}, stays


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    # keep_vars returns the parameters themselves, not views, so that tied ones are recognized by identity.
    state: dict[str, torch.Tensor] = module.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise LayoutError(f"{name} is state that is not a tensor: it can be neither averaged nor hashed")
        if is_lazy(value):
            raise LayoutError(f"{name} has no shape yet: call the model with an example first, which uses that layer")
    return state


def has_lazy_layers(module: nn.Module) -> bool:
    """Return whether a layer such as `nn.LazyLinear` has seen no example, and so has no shape yet."""
    return any(map(is_lazy, (*module.parameters(), *module.buffers())))


def _places(module: nn.Module) -> Iterator[tuple[_Entry, torch.Tensor]]:
    start = 0
    for name, tensor in travelling_state(module).items():
        if tensor.is_complex():
            raise LayoutError(f"{name} is complex; only real numbers can be averaged here")
        if not tensor.is_floating_point():
            continue
        stop = start + tensor.numel()
        yield _Entry(name, tuple(tensor.shape), tensor.dtype, start, stop), tensor.detach()
        start = stop


def _memory(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return a key that two tensors share exactly if they are the same tensor under two names.

    The object is not enough: two parameters may use the same memory. The address is not enough: a slice of a tensor can
    start at the same address as the whole.
    """
    if tensor.numel() == 0 or tensor.is_meta:
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.shape, tensor.stride())
