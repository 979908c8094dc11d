"""Updates as vectors, and models as arrays."""

from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
import torch

from fl.aggregation.encoding import UndecodableSumError
from fl.errors import ConfigError
from fl.integrations.nvflare import ModelError
from fl.integrations.nvflare.model_encoding import SiteUpdate, as_model, digest
from tests.integrations.nvflare import loopback

encoding = partial(loopback.encoding, num_entries=1)

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}


def update(change: float = 0.0, **changes: Any) -> SiteUpdate:
    arguments = {"entries": {"w": MODEL["w"] + change}, "is_difference": False, "steps": 5, "metrics": {}}
    return SiteUpdate(**(arguments | changes))


def test_a_change_beyond_the_bound_is_made_smaller_and_counted() -> None:
    chosen, rng = encoding(), np.random.default_rng(1)
    vector = chosen.encode(update(3.0), MODEL, rng)
    assert vector.shape == (chosen.vector_length(MODEL),)
    mean = chosen.decode(vector, 1, MODEL)
    # All of it is beyond the bound of 2: it is scaled down as a whole, to between its half and all of it.
    np.testing.assert_allclose(mean.differences["w"], mean.differences["w"][0, 0], atol=1e-5)
    assert 1 < mean.differences["w"][0, 0] <= 2
    assert mean.clipped == 1.0


def test_rounding_is_unbiased() -> None:
    chosen, rng = encoding(value_bits=4, num_sites=4000), np.random.default_rng(1)
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
        (None, "no named entries"),
        ({}, "no named entries"),
        ([np.zeros(3)], "no named entries"),
        ({3: np.zeros(3)}, "not a string"),
        ({"w": torch.zeros(3)}, "ExchangeFormat.NUMPY"),
        ({"w": "text"}, "must be an array of numbers"),
        ({"w": [[1.0], [1.0, 2.0]]}, "must be an array of numbers"),
        ({"w": {"nested": np.zeros(3)}}, "must be an array of numbers"),
    ],
)
def test_invalid_models_are_refused(params: Any, reason: str) -> None:
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
        {"clip": -1.0},
        {"clip": float("nan")},
        {"max_steps": 0},
        {"value_bits": 40},
        {"num_sites": 0},
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


@pytest.mark.parametrize(
    "steps", [-1, 1.5, np.float32(1.5), float("nan"), float("inf"), "5", "many", None, np.ones(1), 1j]
)
def test_steps_out_of_range_are_refused(steps: Any) -> None:
    from fl.errors import FLError

    with pytest.raises(FLError, match="whole number"):
        encoding().encode(update(steps=steps), MODEL, np.random.default_rng())


@pytest.mark.parametrize("steps", [65, 10**6, 10**30])
def test_more_steps_than_the_bound_count_as_the_bound(steps: int) -> None:
    chosen, rng = encoding(), np.random.default_rng(1)
    total = chosen.encode(update(0.5, steps=steps), MODEL, rng) + chosen.encode(update(0.25, steps=64), MODEL, rng)
    mean = chosen.decode(total, 2, MODEL)
    np.testing.assert_allclose(mean.differences["w"], 0.375, atol=1e-5)
    assert mean.total_steps == 128


@pytest.mark.parametrize("num_entries", [0, 2, 1000])
def test_bounds_of_another_model_are_declined_with_a_reason(num_entries: int) -> None:
    chosen = encoding(num_entries=num_entries)
    reason = f"announced with {num_entries} clipping bounds, and the model has 1 entries that are averaged"
    for use in (
        lambda: chosen.vector_length(MODEL),
        lambda: chosen.encode(update(), MODEL, np.random.default_rng()),
        lambda: chosen.decode(np.zeros(30, dtype=np.int64), 1, MODEL),
    ):
        with pytest.raises(ModelError, match=reason):
            use()


def test_a_kept_update_is_a_copy() -> None:
    """The trainer's arrays may change before the second session asks for it."""
    chosen, seed = encoding(), 1
    for is_difference in (False, True):
        entries = {"w": (0 if is_difference else MODEL["w"]) + np.full((2, 3), 0.5, np.float32), "n": np.array(9)}
        own = update(entries=entries, is_difference=is_difference, metrics={"accuracy": 0.25, "other": 1.0})
        expected = chosen.encode(own, MODEL, np.random.default_rng(seed))
        kept = chosen.to_keep(own, MODEL)
        entries["w"][:] = np.nan
        np.testing.assert_array_equal(chosen.encode(kept, MODEL, np.random.default_rng(seed)), expected)


@pytest.mark.parametrize(
    "steps",
    [
        5, 5.0, np.int64(5), np.int32(5), np.uint8(5), np.float32(5), np.float64(5), np.array(5), np.array(5.0),
        Fraction(5), Decimal(5), torch.tensor(5), torch.tensor(5.0),
    ],
    ids=lambda steps: f"{type(steps).__module__}.{type(steps).__name__}:{steps}",
)  # fmt: skip
def test_whole_numbers_of_any_type_are_steps(steps: Any) -> None:
    chosen = encoding()
    mean = chosen.decode(chosen.encode(update(0.5, steps=steps), MODEL, np.random.default_rng(1)), 1, MODEL)
    assert mean.total_steps == 5
    np.testing.assert_allclose(mean.differences["w"], 0.5, atol=1e-5)


def test_an_update_without_steps_counts_nothing_and_costs_nothing() -> None:
    chosen, rng = encoding(), np.random.default_rng(1)
    trained = chosen.encode(update(0.5, metrics={"accuracy": 0.25}), MODEL, rng)
    idle = chosen.encode(update(3.0, steps=0, metrics={"accuracy": 9.0}), MODEL, rng)
    mean = chosen.decode(trained + idle, 2, MODEL)
    np.testing.assert_allclose(mean.differences["w"], 0.5, atol=1e-5)
    assert mean.metrics == pytest.approx({"accuracy": 0.25}, abs=1e-5)
    assert mean.total_steps == 5


def test_updates_without_any_steps_have_no_mean() -> None:
    chosen = encoding()
    idle = chosen.encode(update(3.0, steps=0), MODEL, np.random.default_rng(1))
    with pytest.raises(UndecodableSumError, match="or none of them has any"):
        chosen.decode(2 * idle, 2, MODEL)


@pytest.mark.parametrize(
    "metric", [float("nan"), float("-inf"), 11.0, -11, "0.5", None, np.ones(2), {"a": 1}, True, 10**400]
)
def test_a_metric_that_cannot_be_averaged_does_not_cost_the_update(metric: Any) -> None:
    chosen, rng = encoding(), np.random.default_rng(1)
    strange = update(0.5, metrics={"accuracy": metric})
    assert chosen.metrics_left_out(strange) == ["accuracy"]
    whole = update(0.25, metrics={"accuracy": np.float32(0.25)})
    assert chosen.metrics_left_out(whole) == []
    mean = chosen.decode(chosen.encode(strange, MODEL, rng) + chosen.encode(whole, MODEL, rng), 2, MODEL)
    np.testing.assert_allclose(mean.differences["w"], 0.375, atol=1e-5)
    assert mean.metrics == pytest.approx({"accuracy": 0.25}, abs=1e-5)


def test_entries_are_added_up_by_name() -> None:
    model = {"b": np.zeros(2), "a": np.zeros(3)}
    chosen, rng = encoding(metrics=("loss", "accuracy"), num_entries=2), np.random.default_rng(1)
    entries, metrics = {"b": np.full(2, 0.5), "a": np.full(3, 0.25)}, {"accuracy": 0.75, "loss": 2.0}
    total = sum(
        chosen.encode(update(entries=dict(order(entries.items())), metrics=dict(order(metrics.items()))), sent, rng)
        for order, sent in ((list, model), (reversed, model), (list, dict(reversed(model.items()))))
    )
    mean = chosen.decode(total, 3, model)
    np.testing.assert_allclose(mean.differences["a"], 0.25, atol=1e-5)
    np.testing.assert_allclose(mean.differences["b"], 0.5, atol=1e-5)
    assert mean.metrics == pytest.approx(metrics, abs=1e-5)


def test_unsupported_types_are_refused() -> None:
    needs_gradient = torch.zeros(2, 3, requires_grad=True)
    for entry in (needs_gradient, "text", [[1.0], [1.0, 2.0]], MODEL["w"] + 1j, {"nested": 1}):
        with pytest.raises(ModelError, match="'w' must be an array of numbers"):
            encoding().encode(update(entries={"w": entry}), MODEL, np.random.default_rng())
