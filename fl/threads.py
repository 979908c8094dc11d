"""How many threads a model's arithmetic is worth.

A small layer's work is over before a second thread has woken up, and where other programs keep the cores busy the
threads' waiting for each other makes it many times slower than one thread alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
