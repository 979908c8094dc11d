"""Control of torch on this machine's processor: threads, bfloat16, and the global random generator.

Threads: the work of a small layer ends before a second thread wakes up. On cores that other programs keep busy, threads
that wait for each other are many times slower than one thread.

bfloat16 pays if the processor supports it and the model is large enough for the cost of the conversions.

Generator: dropout layers draw from it, and a user's model may do so. A process has one generator, so threads that seed
it at the same time would train with each other's numbers. They could also deadlock: torch holds the generator's lock
while it creates the Python object of its state. If Python collects garbage at that moment and switches to a thread that
waits for the same lock without releasing the interpreter, neither thread continues.
"""

from __future__ import annotations

import functools
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from fl.learning.settings import Precision

# Forward multiplications per batch: on 28x28 images and batches of 10, cnn has 120 million and 2nn 2 million.
_WORTHWHILE = 20_000_000


def multiplications(model: nn.Module, image_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Return the multiply-accumulate operations of one image's forward pass, in linear and convolutional layers."""
    total = 0

    def count(layer: nn.Linear | nn.Conv2d, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        # Each weight of an output channel is multiplied once at each position of the channel.
        channels = output.shape[-1 if isinstance(layer, nn.Linear) else 1]
        total += layer.weight.numel() * (output.numel() // channels)

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            # Two examples: a BatchNorm1d without running statistics cannot normalize one.
            model(torch.zeros(2, *image_shape, dtype=dtype))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total // 2


def worthwhile_threads(
    model: nn.Module, image_shape: tuple[int, ...], batch_size: int, dtype: torch.dtype = torch.float32
) -> int:
    """Return the number of threads for batches of this size: all of torch's, or one."""
    if multiplications(model, image_shape, dtype) * batch_size < _WORTHWHILE:
        return 1
    return min(torch.get_num_threads(), os.cpu_count() or 1)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use the given number of threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Conversions cost about the same per batch for all model sizes. Measured with batches of 64 on two
# cores with avx512_bf16, against float32: cnn on 28x28 (41 M) 1.5 times as fast; small-cnn on 28x28 (3.7 M)
# and cnn on 8x8 (3.3 M) even; 2nn and logistic between 1.2 times as fast and half as fast.
_WORTHWHILE_WORK = 10_000_000


def uses_bfloat16(
    setting: Precision, model: nn.Module, image_shape: torch.Size, device: torch.device | None = None
) -> bool:
    """Return whether `model` runs in bfloat16 on images of `image_shape` (C, H, W), by default on the CPU.

    "auto" depends on the device, the model and the image size only, not on a measurement during training: seeded
    runs on one machine must repeat bit for bit.
    """
    if setting != "auto":
        return setting == "on"
    if _convolution_work(model, image_shape) < _WORTHWHILE_WORK:
        return False
    if device is None or device.type == "cpu":
        return processor_has_bfloat16()
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _convolution_work(model: nn.Module, image_shape: torch.Size) -> int:
    """Return an upper bound on one image's multiplications in convolutions, as if nothing were pooled."""
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return weights * image_shape[-2] * image_shape[-1] if len(image_shape) == 3 else 0


@functools.cache
def processor_has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 natively (avx512_bf16, AMX, Arm's BF16) and torch uses it.

    torch's own check for x86 is also true with plain AVX-512, where bfloat16 is emulated and slow, so the processor's
    flags must confirm it. Returns False if neither torch nor the system tells.
    """
    if not _torch_computes_in_bfloat16():
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True  # On Arm, torch checks for the BF16 instructions themselves.
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
    """Return the first processor's flags from Linux, for versions of torch without a function for them."""
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
    """Seed torch's global generator inside the context, then restore it; other threads wait meanwhile."""
    with _TURN, torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
