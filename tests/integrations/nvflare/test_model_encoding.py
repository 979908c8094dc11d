"""Updates as vectors, and models as arrays."""

from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has an environment of its own: make test-nvflare")

import numpy as np
import torch

from fl.errors import ConfigError
from fl.integrations.nvflare import ModelError
from fl.integrations.nvflare.model_encoding import SiteUpdate, as_model, digest
from tests.integrations.nvflare.loopback import encoding

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}


def update(change: float = 0.0, **changes: Any) -> SiteUpdate:
    arguments = {"entries": {"w": MODEL["w"] + change}, "is_difference": False, "steps": 5, "metrics": {}}
    return SiteUpdate(**(arguments | changes))


def test_a_change_beyond_the_bound_is_clipped_and_counted() -> None:
    chosen, rng = encoding(), np.random.default_rng(1)
    vector = chosen.encode(update(3.0), MODEL, rng)
    assert vector.shape == (chosen.vector_length(MODEL),)
    mean = chosen.decode(vector, 1, MODEL)
    np.testing.assert_allclose(mean.differences["w"], 2.0, atol=1e-5)
    assert mean.clipped == 1.0


def test_rounding_is_unbiased() -> None:
    chosen, rng = encoding(value_bits=4), np.random.default_rng(1)
    total = sum(chosen.encode(update(0.1), MODEL, rng) for _ in range(4000))
    # A step is 0.27, at a weight of 5 in 64 the deviation of one rounding about 1.7: 0.03 of 4000.
    np.testing.assert_allclose(chosen.decode(total, 4000, MODEL).differences["w"], 0.1, atol=0.15)


def test_equal_models_have_equal_digests() -> None:
    fortran = {"w": np.asfortranarray(MODEL["w"]), "n": np.array(3)}
    swapped = {"w": MODEL["w"].astype(">f4"), "n": MODEL["n"].astype(">i8")}
    for other in (fortran, swapped):
        assert digest(other) == digest(MODEL)
        # To a trainer, too, they are one model.
        entry = as_model(other)["w"]
        assert entry.dtype.isnative
        assert entry.flags.c_contiguous


@pytest.mark.parametrize(
    "other",
    [
        {"w": MODEL["w"]},
        {"n": MODEL["n"], "w": MODEL["w"]},
        {"w": MODEL["w"].astype(np.float64), "n": MODEL["n"]},
        {"w": MODEL["w"].reshape(3, 2), "n": MODEL["n"]},
        {"w": MODEL["w"], "m": MODEL["n"]},
        {"w": np.nextafter(MODEL["w"], np.float32(9)), "n": MODEL["n"]},
    ],
)
def test_other_models_have_other_digests(other: dict[str, Any]) -> None:
    assert digest(other) != digest(MODEL)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (None, "no entries"),
        ({}, "no entries"),
        ([np.zeros(3)], "no entries"),
        ({3: np.zeros(3)}, "no string"),
        ({"w": torch.zeros(3)}, "ExchangeFormat.NUMPY"),
        ({"w": "text"}, "no array of numbers"),
        ({"w": [[1.0], [1.0, 2.0]]}, "no array of numbers"),
        ({"w": {"nested": np.zeros(3)}}, "no array of numbers"),
    ],
)
def test_what_is_no_model_is_refused(params: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        as_model(params)


def test_models_are_copied() -> None:
    params = {"w": np.zeros(3)}
    model = as_model(params)
    params["w"] += 1
    assert not model["w"].any()


def test_a_model_of_integers_has_no_average() -> None:
    with pytest.raises(ModelError, match="nothing to average"):
        encoding().vector_length({"n": np.array(3)})


@pytest.mark.parametrize(
    "changes",
    [
        {"clip": 0.0},
        {"clip": float("nan")},
        {"max_steps": 0},
        {"value_bits": 40},
        {"metrics": ("a", "a")},
        {"metrics": (1,)},
        {"excluded": ("b", "a")},
        {"excluded": ("a", "a")},
        {"excluded": (1,)},
        {"metric_bound": float("inf")},
    ],
)
def test_numbers_out_of_range_are_refused(changes: Any) -> None:
    with pytest.raises(ConfigError):
        encoding(**changes)


@pytest.mark.parametrize("steps", [-1, 65, 1.5, float("nan"), "many", None])
def test_steps_out_of_range_are_refused(steps: Any) -> None:
    from fl.errors import FLError

    with pytest.raises(FLError, match="whole number"):
        encoding().encode(update(steps=steps), MODEL, np.random.default_rng())
