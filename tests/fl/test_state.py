"""The part of a model that travels: the round trip, what stays behind, refusals, and the digest of the whole."""

from __future__ import annotations

import copy
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from fl.errors import FLError
from fl.learning.models import MODELS, build_model
from fl.learning.parameter_layout import (
    NOTHING_FROZEN,
    LayoutError,
    ParameterLayout,
    context_digest,
    frozen_digest,
)


class Mixed(nn.Module):
    """A model with a convolution, BatchNorm, tied weights, a frozen weight, and buffers of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.third = nn.Linear(4, 4, bias=False)
        self.third.weight = nn.Parameter(self.first.weight.detach())  # another object, the same memory
        self.frozen = nn.Parameter(torch.arange(3.0), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("own", torch.ones(9), persistent=False)


def filled(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
    return module


# 3*4*2*2 + 4 (conv), 4*4 (norm's weight, bias, mean, variance), 16 (one weight under three names), 1 (scale)
MIXED_SIZE = 52 + 16 + 16 + 1


def test_the_tensors_that_travel_and_their_order() -> None:
    layout = ParameterLayout.of(Mixed())
    assert layout.size == MIXED_SIZE
    # A module's own tensors come before its parts', as in the state dict.
    assert [entry.name for entry in layout.entries] == [
        "scale",
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "first.weight",
    ]
    assert [layout.entries[0].start, *(entry.stop for entry in layout.entries)] == [
        0, 1, 49, 53, 57, 61, 65, 69, 85,
    ]  # fmt: skip


@given(hnp.arrays(np.float32, MIXED_SIZE, elements=st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_round_trip_is_exact(vector: np.ndarray) -> None:
    module = Mixed()
    layout = ParameterLayout.of(module)
    layout.load_vector(module, vector)
    returned = layout.to_vector(module)
    assert returned.dtype == np.float32
    assert returned.tobytes() == vector.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_memory_format_does_not_change_the_vector(name: str) -> None:
    plain = build_model(name, image_shape=(3, 8, 8), num_classes=10, seed=3)
    strided = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layout = ParameterLayout.of(plain)
    assert ParameterLayout.of(strided) == layout
    vector = layout.to_vector(plain)
    assert np.array_equal(layout.to_vector(strided), vector)
    layout.load_vector(strided, vector[::-1].copy())
    layout.load_vector(plain, vector[::-1].copy())
    for key, value in plain.state_dict().items():
        assert torch.equal(strided.state_dict()[key], value)
    if "cnn" in name:
        weight = next(p for p in strided.parameters() if p.ndim == 4 and p.shape[1] > 3)
        assert weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert not weight.is_contiguous()


def test_elements_are_where_the_layout_says() -> None:
    module = filled(Mixed(), 1)
    layout = ParameterLayout.of(module)
    vector = layout.to_vector(module)
    for entry in layout.entries:
        part = vector[entry.start : entry.stop].reshape(entry.shape)
        assert np.array_equal(part, module.state_dict()[entry.name].numpy())


def test_integers_keep_the_receivers_value_and_floats_take_the_senders() -> None:
    client, server = Mixed().train(), Mixed()
    client.norm(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    assert client.norm.num_batches_tracked == 1
    layout = ParameterLayout.of(server)
    layout.load_vector(server, layout.to_vector(client))
    assert torch.equal(server.norm.running_mean, client.norm.running_mean)
    assert torch.equal(server.norm.running_var, client.norm.running_var)
    assert server.norm.num_batches_tracked == 0
    assert server.mask.tolist() == [True, False]


def test_mean_of_vectors_is_mean_of_models() -> None:
    one, two, mean = filled(Mixed(), 1), filled(Mixed(), 2), Mixed()
    layout = ParameterLayout.of(mean)
    layout.load_vector(mean, (layout.to_vector(one) + layout.to_vector(two)) / np.float32(2))
    for key, value in mean.state_dict().items():
        if key != "frozen" and value.is_floating_point():
            torch.testing.assert_close(value, (one.state_dict()[key] + two.state_dict()[key]) / 2)


def test_tied_weights_stay_tied() -> None:
    module = Mixed()
    layout = ParameterLayout.of(module)
    layout.load_vector(module, np.arange(MIXED_SIZE, dtype=np.float32))
    expected = torch.arange(69.0, 85.0).view(4, 4)
    for layer in (module.first, module.second, module.third):
        assert torch.equal(layer.weight, expected)
    assert module.second.weight is module.first.weight


def test_a_frozen_parameter_in_the_memory_of_a_trained_one_changes_with_it() -> None:
    module = nn.Module()
    memory = torch.zeros(3)
    module.frozen = nn.Parameter(memory, requires_grad=False)
    module.trained = nn.Parameter(memory)
    layout = ParameterLayout.of(module)
    assert layout.names == ("frozen",)
    layout.load_vector(module, np.arange(3, dtype=np.float32))
    assert module.trained.tolist() == [0, 1, 2]
    assert frozen_digest(module) == NOTHING_FROZEN


def test_parts_of_one_memory_are_not_taken_for_the_whole() -> None:
    module = nn.Module()
    whole = torch.arange(6.0)
    module.head = nn.Parameter(whole[:2])
    module.all = nn.Parameter(whole[2:])
    module.turned = nn.Parameter(torch.arange(4.0).view(2, 2))
    assert ParameterLayout.of(module).size == 10


def test_vector_is_a_copy() -> None:
    module = filled(Mixed(), 1)
    layout = ParameterLayout.of(module)
    vector = layout.to_vector(module)
    kept = vector.copy()
    layout.load_vector(module, vector)
    vector[:] = 0
    assert np.array_equal(layout.to_vector(module), kept)


def test_read_only_and_strided_vectors_are_taken() -> None:
    module = Mixed()
    layout = ParameterLayout.of(module)
    every_other = np.arange(2 * MIXED_SIZE, dtype=np.float32)[::2]
    every_other.flags.writeable = False
    layout.load_vector(module, every_other)
    assert np.array_equal(layout.to_vector(module), every_other)
    reversed_vector = np.arange(MIXED_SIZE, dtype=np.float32)[::-1]
    layout.load_vector(module, reversed_vector)
    assert np.array_equal(layout.to_vector(module), reversed_vector)


def test_other_float_types_travel_as_float32() -> None:
    module = nn.Linear(2, 2).to(torch.float16)
    layout = ParameterLayout.of(module)
    layout.load_vector(module, np.array([0.5, 1, 2, 3, 4, 65504], dtype=np.float32))
    assert module.weight.dtype == torch.float16
    assert layout.to_vector(module).tolist() == [0.5, 1, 2, 3, 4, 65504]
    assert layout != ParameterLayout.of(nn.Linear(2, 2))


def with_value(place: int, value: float) -> np.ndarray:
    vector = np.ones(MIXED_SIZE, dtype=np.float32)
    vector[place] = value
    return vector


@pytest.mark.parametrize(
    ("vector", "complaint"),
    [
        (np.zeros(MIXED_SIZE - 1, dtype=np.float32), r"\(85,\), not float32 \(84,\)"),
        (np.zeros((1, MIXED_SIZE), dtype=np.float32), r"not float32 \(1, 85\)"),
        (np.zeros(MIXED_SIZE), "not float64"),
        (np.zeros(MIXED_SIZE, dtype=">f4"), "not >f4|not float32"),
        ([0.0] * MIXED_SIZE, "not list"),
        (with_value(MIXED_SIZE - 1, np.nan), "first.weight .* not finite"),
        (with_value(0, np.inf), "scale .* not finite"),
        (with_value(10, -np.inf), "conv.weight .* not finite"),
    ],
)
def test_refuses_a_wrong_vector_and_changes_nothing(vector: Any, complaint: str) -> None:
    module = filled(Mixed(), 1)
    layout = ParameterLayout.of(module)
    before = layout.to_vector(module)
    with pytest.raises(LayoutError, match=complaint):
        layout.load_vector(module, vector)
    assert np.array_equal(layout.to_vector(module), before)


def test_refuses_a_number_too_large_for_a_narrow_type() -> None:
    module = nn.Linear(1, 1).to(torch.float16)
    with pytest.raises(LayoutError, match=r"not finite in torch\.float16"):
        ParameterLayout.of(module).load_vector(module, np.array([1, 70_000], dtype=np.float32))


def untie(module: Mixed) -> nn.Module:
    module.second.weight = nn.Parameter(torch.zeros(4, 4))
    return module


@pytest.mark.parametrize("other", [nn.Linear(2, 2), untie(Mixed()), Mixed().double()])
def test_refuses_a_model_of_another_layout(other: nn.Module) -> None:
    assert issubclass(LayoutError, FLError)
    layout = ParameterLayout.of(Mixed())
    with pytest.raises(LayoutError, match="differs from the one"):
        layout.to_vector(other)
    with pytest.raises(LayoutError, match="differs from the one"):
        layout.load_vector(other, np.zeros(MIXED_SIZE, dtype=np.float32))


class Talkative(nn.Linear):
    def get_extra_state(self) -> str:
        return "not a tensor"


def test_refuses_state_that_cannot_be_averaged() -> None:
    with pytest.raises(LayoutError, match="_extra_state"):
        ParameterLayout.of(Talkative(2, 2))
    with pytest.raises(LayoutError, match="_extra_state"):
        context_digest(Talkative(2, 2))
    with pytest.raises(LayoutError, match="weight is complex"):
        ParameterLayout.of(nn.Linear(2, 2, dtype=torch.complex64))


def test_model_without_state_has_an_empty_vector() -> None:
    layout = ParameterLayout.of(nn.ReLU())
    assert layout.size == 0
    assert layout.to_vector(nn.ReLU()).shape == (0,)
    layout.load_vector(nn.ReLU(), np.empty(0, dtype=np.float32))


def test_digest_is_the_documented_one() -> None:
    """Computed by hand from the docstring: frozen part; name, type and shape, values, each after its length."""
    module = nn.Module()
    module.base = nn.Parameter(torch.tensor(0.5), requires_grad=False)
    module.w = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    module.register_buffer("count", torch.tensor(3))
    parts = [
        b"count", b"torch.int64()", struct.pack("<q", 3),
        b"w", b"torch.float32(1, 2)", struct.pack("<2f", 1, -2),
    ]  # fmt: skip
    frozen = hashlib.sha256(b"secagg/fl/frozen-parameters/1")
    for part in (b"base", b"torch.float32()", struct.pack("<f", 0.5)):
        frozen.update(struct.pack(">Q", len(part)) + part)
    assert frozen_digest(module) == frozen.digest()
    expected = hashlib.sha256(b"secagg/fl/model-state/2" + frozen.digest())
    for part in parts:
        expected.update(struct.pack(">Q", len(part)) + part)
    assert context_digest(module) == context_digest(module, frozen.digest()) == expected.digest()
    assert frozen_digest(nn.Linear(1, 1)) == NOTHING_FROZEN


def test_digest_is_of_the_values_and_not_of_the_memory() -> None:
    spaced, dense = nn.Module(), nn.Module()
    spaced.w = nn.Parameter(torch.arange(6.0)[::2])
    dense.w = nn.Parameter(torch.tensor([0.0, 2.0, 4.0]))
    assert context_digest(spaced) == context_digest(dense)
    module = filled(Mixed(), 1)
    digest = context_digest(module)
    assert len(digest) == 32
    assert context_digest(copy.deepcopy(module)) == digest
    assert context_digest(copy.deepcopy(module).to(memory_format=torch.channels_last)) == digest  # type: ignore[call-overload]
    assert context_digest(module.eval()) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.conv.weight.data.view(-1)[-1:].mul_(1 + 2**-23),
        lambda m: m.norm.running_var[1:2].add_(1e-3),
        lambda m: m.norm.num_batches_tracked.add_(1),
        lambda m: m.mask.logical_not_(),
        lambda m: m.frozen.data[:1].neg_(),  # 0.0 becomes -0.0
        lambda m: m.double(),
        lambda m: setattr(m, "frozen", nn.Parameter(m.frozen.data[None], requires_grad=False)),
        lambda m: m.register_buffer("extra", torch.empty(0)),
    ],
    ids=["last bit", "running", "counter", "bool", "sign of zero", "dtype", "shape", "name"],
)
def test_digest_sees_every_change(change: Callable[[Any], object]) -> None:
    module = Mixed()
    digest = context_digest(module)
    change(module)
    assert context_digest(module) != digest
