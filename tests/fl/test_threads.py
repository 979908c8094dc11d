"""The number of threads for a model; other models' threads are unchanged."""

from __future__ import annotations

import pytest
import torch

from fl.learning.cpu import multiplications, torch_threads, worthwhile_threads
from fl.learning.models import build_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        ("logistic", (1, 8, 8), 64 * 10),
        ("2nn", (1, 28, 28), 784 * 200 + 200 * 200 + 200 * 10),
        ("cnn", (1, 28, 28), 28 * 28 * 25 * 32 + 14 * 14 * 25 * 32 * 64 + 7 * 7 * 64 * 128 + 128 * 10),
    ],
)
def test_a_models_work_is_counted(model: str, shape: tuple[int, int, int], expected: int) -> None:
    built = build_model(model, image_shape=shape, num_classes=10, seed=0)
    assert multiplications(built, shape) == expected
    assert built.training


def test_small_models_train_on_one_thread() -> None:
    small = build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=0)
    assert worthwhile_threads(small, (1, 8, 8), 10) == 1
    with torch_threads(2):
        assert worthwhile_threads(small, (1, 8, 8), 10**6) <= 2


def test_the_number_of_threads_is_put_back() -> None:
    def fail_on_one_thread() -> None:
        with torch_threads(1):
            assert torch.get_num_threads() == 1
            raise KeyError

    with torch_threads(2):
        with pytest.raises(KeyError):
            fail_on_one_thread()
        assert torch.get_num_threads() == 2
