"""The device that a machine trains on: its processor, or an accelerator of torch's.

A model is on the CPU between trainings, where it is received, encoded and sent. Each client's training moves the model
and the client's examples to the device, and the model back. The order of examples is drawn on the CPU, so it is the
same on all devices; sums are not, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from fl.errors import ConfigError
from fl.learning.cpu import seeded_global_generator

CPU = torch.device("cpu")
DEVICES = ("cpu", "cuda", "mps", "auto")
"""The names of devices; ``cuda:1`` is the second CUDA device."""


def find_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        ConfigError: the name is unknown, or the device is not here.
    """
    if name == "auto":
        return torch.device("cuda" if _count("cuda") else "mps" if _count("mps") else "cpu")
    kind, separator, place = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (separator and not (kind == "cuda" and place.isdecimal())):
        raise ConfigError(f"unknown device {name!r}; known are {', '.join(DEVICES)}, and cuda:1 for the second")
    found = _count(kind)
    if int(place or 0) >= found:
        there = f"there are {found} devices of CUDA" if found else f"torch finds no {kind} device on this machine"
        raise ConfigError(f"device {name}: {there}; give --device auto, or cpu")
    return torch.device(name)


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return int(torch.backends.mps.is_available()) if kind == "mps" else 1


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Have the model on the device inside the context, and on the CPU after it.

    Raises:
        ConfigError: the device has too little memory.
    """
    if device.type == "cpu":
        yield
        return
    try:
        model.to(device)
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(f"{device} has too little memory: give a smaller --batch-size, or fewer --workers") from error
    finally:
        model.to(CPU)


@contextmanager
def seeded_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator, and the device's, inside the context; then restore both."""
    with ExitStack() as stack:
        stack.enter_context(seeded_global_generator(seed))
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        if device.type != "cpu":
            accelerator = getattr(torch, device.type)
            stack.callback(accelerator.set_rng_state, accelerator.get_rng_state())
            accelerator.manual_seed(seed)
        yield
