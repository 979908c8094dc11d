"""The use of bfloat16: by the processor, the model, and the user's choice."""

from __future__ import annotations

import pytest
import torch

from fl.learning import cpu as precision
from fl.learning.models import build_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "side", "worthwhile"),
    [
        ("cnn", 28, True),
        ("cnn", 8, False),
        ("small-cnn", 28, False),
        ("small-cnn", 8, False),
        ("2nn", 28, False),
        ("logistic", 28, False),
    ],
)
def test_auto_takes_bfloat16_where_it_was_measured_to_be_faster(
    name: str, side: int, worthwhile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(name, image_shape=(1, side, side), num_classes=10, seed=1)
    shape = torch.Size((1, side, side))
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: True)
    assert precision.uses_bfloat16("auto", model, shape) == worthwhile
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: False)
    assert not precision.uses_bfloat16("auto", model, shape)
    assert precision.uses_bfloat16("on", model, shape)
    assert not precision.uses_bfloat16("off", model, shape)


@pytest.mark.parametrize(
    ("machine", "in_torch", "helper", "flags", "expected"),
    [
        ("x86_64", True, True, set(), True),
        ("x86_64", True, False, {"avx512f", "avx512_bf16"}, True),
        ("x86_64", True, False, {"avx512f"}, False),
        ("x86_64", False, True, {"avx512_bf16"}, False),
        ("aarch64", True, False, set(), True),
        ("arm64", False, False, set(), False),
    ],
)
def test_processor_detection(
    machine: str,
    in_torch: bool,
    helper: bool,
    flags: set[str],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(precision, "_torch_computes_in_bfloat16", lambda: in_torch)
    monkeypatch.setattr(precision, "_linux_processor_flags", lambda: flags)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: helper, raising=False)
    assert precision.processor_has_bfloat16.__wrapped__() == expected
