"""How torch computes on this machine's processor: its threads, bfloat16, and its global random generator.

Threads: a small layer's work is over before a second thread has woken up, and where other programs keep the cores
busy, threads that wait for each other make it many times slower than one thread alone.

bfloat16 pays where the processor has it and the model is worth the conversions.

The generator: dropout layers draw from it, and so may a user's model. There is one in a process: threads that seeded
it side by side would train with each other's numbers. They could stop the process, too: torch holds the generator's
lock while it makes the Python object of its state, and if Python collects garbage just then and lets another thread
run, which asks for that lock without letting go of the interpreter, neither goes on.
"""

from __future__ import annotations

import functools
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import nn

# Multiplications a batch, forward: the cnn on 28x28 has 120 million in a batch of 10, the 2nn 2 million.
_WORTHWHILE = 20_000_000


def multiplications(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Multiply-accumulate operations of one image's forward pass, in the linear and convolutional layers."""
    total = 0

    def count(layer: nn.Linear | nn.Conv2d, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        # Each weight of an output channel is multiplied once at each of the channel's places.
        total += layer.weight.numel() * (output.numel() // output.shape[1])

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            # Two: a BatchNorm1d that keeps no statistics has none of one.
            model(torch.zeros(2, *image_shape))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total // 2


def worthwhile_threads(model: nn.Module, image_shape: tuple[int, ...], batch_size: int) -> int:
    """Threads for batches of this size: all of torch's, or one."""
    if multiplications(model, image_shape) * batch_size < _WORTHWHILE:
        return 1
    return min(torch.get_num_threads(), os.cpu_count() or 1)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Precision = Literal["auto", "on", "off"]

# Conversions cost about as much a batch whatever the model's size. Measured with batches of 64 on two
# cores with avx512_bf16, against float32: cnn on 28x28 (41 M) 1.5 times as fast; small-cnn on 28x28 (3.7 M)
# and cnn on 8x8 (3.3 M) even; 2nn and logistic between 1.2 times as fast and half as fast.
_WORTHWHILE_WORK = 10_000_000


def uses_bfloat16(setting: Precision, model: nn.Module, image_shape: torch.Size) -> bool:
    """Whether `model` runs in bfloat16 on images of `image_shape` (C, H, W).

    "auto" depends on processor, model and image size only, and not on a measurement made while training:
    seeded runs on one machine must repeat bit for bit.
    """
    if setting != "auto":
        return setting == "on"
    return _convolution_work(model, image_shape) >= _WORTHWHILE_WORK and processor_has_bfloat16()


def _convolution_work(model: nn.Module, image_shape: torch.Size) -> int:
    """Upper bound on an image's multiplications in convolutions: as if none of them was after a pooling."""
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return weights * image_shape[-2] * image_shape[-1] if len(image_shape) == 3 else 0


@functools.cache
def processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (avx512_bf16, AMX, or Arm's BF16) and torch uses it.

    torch's own check for x86 is true with plain AVX-512 as well, where bfloat16 is emulated and slow; so
    the processor's flags must say it too. False where neither torch nor the system tells.
    """
    if not _torch_computes_in_bfloat16():
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True  # There torch checks for the BF16 instructions themselves.
    for helper in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        if getattr(torch.cpu, helper, bool)():
            return True
    return bool({"avx512_bf16", "amx_bf16"} & _linux_processor_flags())


def _torch_computes_in_bfloat16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # This torch was built without oneDNN.
        return False


def _linux_processor_flags() -> set[str]:
    """The first processor's flags as Linux names them; for versions of torch without the helpers."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()


_TURN = threading.RLock()


@contextmanager
def seeded_global_generator(seed: int) -> Iterator[None]:
    """The generator begins at ``seed``, and afterwards goes on from where it was; other threads wait until then."""
    with _TURN, torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
