"""Announcements that are small on the wire and large in memory, and models that would be: refused before either is."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any, NoReturn

import pytest
import torch

import fl.learning.models
from fl.aggregation.scales import Scales
from fl.aggregation.session_policy import PolicyError
from fl.learning.models import model_outline
from fl.learning.parameter_layout import ParameterLayout
from fl.learning.serialization import check_size, model_to_bytes
from fl.network.announcement import decode_announcement, encode_announcement
from fl.network.errors import AnnouncementError
from fl.network.local_data import LocalData
from fl.network.policy import Policy
from tests.fl.network.test_network_parts import DATA, ENCODING, PARAMS, announcement
from tests.fl.runs import own_module

MIB = 1 << 20


THREE_CLASSES = announcement()


def peak(work: Any) -> int:
    """Return the peak of allocated bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


MAPS = b"\xdd" + (4 * MIB).to_bytes(4, "big") + b"\x80" * (4 * MIB)


@pytest.mark.parametrize("bomb", [MAPS, b"\x92\x03" + MAPS, b"\x92\x03\x81\xa5round" + MAPS])
def test_an_announcement_of_maps_is_refused_before_they_are_made(bomb: bytes) -> None:
    def read() -> None:
        with pytest.raises(AnnouncementError, match="more than 512 objects"):
            decode_announcement(bomb)

    assert peak(read) < MIB


def test_the_model_of_an_announcement_is_not_copied() -> None:
    extra = encode_announcement(announcement(model_bytes=bytes(8 * MIB)))
    assert peak(lambda: decode_announcement(extra)) < MIB


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a test fail if memory is allocated for a model."""

    def given(*_: object) -> NoReturn:
        raise AssertionError("memory was taken for a model")

    monkeypatch.setattr(fl.learning.models, "_initialize", given)


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("model", ["logistic", "2nn", "cnn"])
def test_no_memory_is_taken_for_a_model_that_did_not_come(model: str) -> None:
    """A gigabyte: 64 x 64 pixels, 65,536 classes; only a model of three classes arrived."""
    large = LocalData(torch.zeros(5, 1, 64, 64), DATA.labels)
    offered = dataclasses.replace(THREE_CLASSES, model=model, image_shape=(1, 64, 64), num_classes=1 << 16)
    with pytest.raises(PolicyError, match=rf"is not a {model} of this size: got [\d,]+ bytes, but this model has"):
        Policy(max_classes=1 << 16).check_training(offered, PARAMS, large)


def test_models_of_the_users_own_are_made_for_no_more_classes_than_the_client_takes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their code decides how much memory they take, so it is not run."""
    name = f"{own_module(tmp_path, 'def make(shape, classes): raise AssertionError(classes)', monkeypatch)}:make"
    with pytest.raises(PolicyError, match="65536 classes, but this client takes at most 1000"):
        Policy(own_model=name).check_training(announcement(model=name, num_classes=1 << 16), PARAMS, DATA)


def test_a_header_of_many_tensors_is_refused_before_they_are_made() -> None:
    """They are empty, but each is an object."""
    size = 4 * ENCODING.update_length
    entries = [b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(20_000)]
    entries.append(b'"w":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}' % (size // 4, size))
    header = b"{" + b",".join(entries) + b"}"
    bomb = len(header).to_bytes(8, "little") + header + bytes(size)

    def check() -> None:
        with pytest.raises(PolicyError, match="is not a logistic of this size"):
            Policy().check_training(announcement(model_bytes=bomb), PARAMS, DATA)

    assert peak(check) < MIB


def test_the_size_of_every_model_is_known_from_its_outline() -> None:
    for name in fl.learning.models.MODELS:
        outline = model_outline(name, (1, 8, 8), 10)
        assert all(tensor.is_meta for tensor in outline.state_dict().values())
        model = fl.learning.models.build_model(name, image_shape=(1, 8, 8), num_classes=10, seed=0)
        assert ParameterLayout.of(outline).size == ParameterLayout.of(model).size
        data = model_to_bytes(model)
        check_size(outline, data)
        check_size(outline, memoryview(data))
        for wrong in (b"", data[:-1], data + b"x", data[:7], b"\xff" * 8 + data[8:]):
            with pytest.raises(ValueError, match="but this model has"):
                check_size(outline, wrong)


def test_an_update_as_long_as_the_vector_is_all_that_is_encoded() -> None:
    """The policy bounds the session's vectors, and these bound the update."""
    longer = dataclasses.replace(PARAMS, vector_length=1 << 30)
    with pytest.raises(
        PolicyError, match=f"updates have {ENCODING.vector_length} values of 16 bits, but .* 1073741824"
    ):
        Policy().check_training(announcement(), longer, DATA)
    assert ENCODING.vector_length == PARAMS.vector_length


def test_bounds_are_no_more_than_the_bytes_that_came() -> None:
    """And the client's own model has as many tensors."""
    many = announcement(scales=Scales((1.0,) * 100_000, 10))
    with pytest.raises(PolicyError, match="100000 clipping bounds for 2 tensors"):
        Policy().check_training(decode_announcement(encode_announcement(many)), PARAMS, DATA)
