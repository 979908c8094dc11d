"""Fixed-point plans: precise enough, and wide enough for every image, also the worst ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fl.encrypted.errors import PrecisionError, UnsupportedModelError
from fl.encrypted.geometry import patches, window_sums
from fl.encrypted.layers import Convolution, MeanPool
from fl.encrypted.plan import make_plan
from fl.encrypted.steps import WIDEST, Maximum, Multiplied, Rectify
from fl.learning.models import MODELS, Square, build_model
from tests.fl.encrypted.integer_model import run_plan

PIXELS = (-0.43, 2.83)


def images_in_range(count: int, side: int = 28) -> torch.Tensor:
    """Return noise that fills the range, and images of its edges only, which go furthest."""
    generator = torch.Generator().manual_seed(3)
    low, high = PIXELS
    noise = torch.rand((count, 1, side, side), generator=generator)
    edges = (torch.rand((count, 1, side, side), generator=generator) < 0.5).float()
    return low + (high - low) * torch.cat((noise, edges, torch.zeros_like(edges[:1]), torch.ones_like(edges[:1])))


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", MODELS)
def test_no_image_of_the_range_overflows_and_outputs_are_those_of_torch(name: str) -> None:
    model = build_model(name, image_shape=(1, 28, 28), num_classes=10, seed=4)
    images = images_in_range(10)
    plan, weights = make_plan(model, (1, 28, 28), PIXELS)
    stored = torch.tensor(run_plan(plan, weights, images.numpy())).double()
    expected = outputs(model, images).double()
    # The scale of the outputs is not part of the plan: argmax does not need it.
    scale = (stored * expected).sum() / (expected * expected).sum()
    assert scale > 2
    # Untrained, so that the outputs are small and hardly differ; and images that fill the range.
    assert ((stored / scale - expected).abs().max() / expected.abs().max()).item() < 0.06


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_an_image_that_is_made_to_overflow_does_not() -> None:
    model = build_model("mlp-500", image_shape=(1, 28, 28), num_classes=10, seed=4)
    plan, weights = make_plan(model, (1, 28, 28), PIXELS)
    signs = torch.tensor(weights[0].matrix > 0)
    # For each hidden unit the images that drive it to its maximum and its minimum.
    images = torch.where(torch.cat((signs, ~signs), dim=1).T.reshape(-1, 1, 28, 28), PIXELS[1], PIXELS[0])
    run_plan(plan, weights, images.numpy())


@pytest.mark.usefixtures("one_thread")
def test_measured_bounds_leave_more_bits_than_guaranteed_ones() -> None:
    model = build_model("mlp-500", image_shape=(1, 28, 28), num_classes=10, seed=4)
    examples = images_in_range(10)
    guaranteed, _ = make_plan(model, (1, 28, 28), PIXELS)
    measured, weights = make_plan(model, (1, 28, 28), PIXELS, examples)

    def dropped(plan: Any) -> int:
        return sum(getattr(step, "drop", 0) for step in plan.steps)

    assert dropped(measured) < dropped(guaranteed)
    run_plan(measured, weights, examples.numpy())


def test_comparisons_are_as_narrow_as_their_values_and_never_wider_than_can_be() -> None:
    for name in MODELS:
        plan, _ = make_plan(build_model(name, image_shape=(1, 28, 28), num_classes=10, seed=4), (1, 28, 28), PIXELS)
        widths = [step.bits for step in plan.steps if isinstance(step, Rectify | Maximum)]
        assert all(10 < width <= WIDEST for width in [*widths, plan.argmax_bits])


def test_squares_need_no_comparison_before_argmax() -> None:
    model = build_model("small-cnn-square", image_shape=(1, 28, 28), num_classes=10, seed=4)
    plan, _ = make_plan(model, (1, 28, 28), PIXELS)
    assert not [step for step in plan.steps if isinstance(step, Rectify | Maximum)]
    assert sum(isinstance(step, Multiplied) for step in plan.steps) == 2


def test_values_that_range_too_widely_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), Square(), nn.Linear(4, 4), Square(), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.fill_(100.0)
    with pytest.raises(PrecisionError, match="measure bounds on examples"):
        make_plan(model, (1, 2, 2), PIXELS)


def test_layers_that_do_not_fit_the_images_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="takes 5 values"):
        make_plan(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), (1, 2, 2), PIXELS)
    with pytest.raises(UnsupportedModelError, match="take images"):
        make_plan(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 2)), (4,), PIXELS)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("kernel", "stride", "padding"), [((3, 3), (1, 1), (1, 1)), ((2, 5), (2, 1), (0, 2))])
def test_patches_times_weights_are_torchs_convolution(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    convolution = nn.Conv2d(3, 4, kernel, stride=stride, padding=padding, bias=False)
    images = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor(patches(images.numpy(), Convolution(3, 4, kernel, stride, padding)))
    result = (rows @ convolution.weight.reshape(4, -1).T).permute(0, 3, 1, 2)
    torch.testing.assert_close(result, convolution(images))


@pytest.mark.parametrize("side", [7, 8, 10])
def test_window_sums_are_torchs_adaptive_means(side: int) -> None:
    layer = MeanPool(output=(3, 2))
    images = torch.rand(2, 3, side, side + 1, generator=torch.Generator().manual_seed(1))
    common = layer.common_count(side, side + 1)
    torch.testing.assert_close(
        torch.tensor(window_sums(images.numpy(), layer, common) / common), nn.AdaptiveAvgPool2d((3, 2))(images)
    )


def test_weights_are_not_shown() -> None:
    _, weights = make_plan(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2), PIXELS)
    assert "redacted" in repr(weights[0])
    assert "array" not in repr(weights)
