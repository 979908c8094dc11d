"""When bfloat16 arithmetic pays: the processor must have it, and the model must be worth the conversions."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Literal

import torch
from torch import nn

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
