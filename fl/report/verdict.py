"""Test the final model: its confusion matrix, and some examples to look at."""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import secagg
from fl.aggregation.private_session import PrivateFigures
from fl.data import Dataset, load_dataset
from fl.errors import FLError
from fl.learning.cpu import torch_threads
from fl.learning.own_code import is_in_program, is_reference, make_dataset, own_code_of
from fl.learning.task import Task
from fl.report.source import StoredRun
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import plan_private_run, session_plans
from fl.runs.run import Run

_SAMPLES = 12
_BATCH = 500
_CLASSES: dict[str, tuple[str, ...]] = {
    # Xiao, Rasul and Vollgraf 2017 (arXiv:1708.07747), table 2.
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
# EMNIST's order (Cohen et al. 2017, arXiv:1702.05373), which LEAF's FEMNIST has too.
_CHARACTERS = (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One test example and the model's answer.

    Attributes:
        place: its index in the test set.
        pixels: float32 (H, W) or (H, W, 3) in 0..1; None if the example is not an image.
        truth, answer: its class, and the model's answer.
        confidence: the model's softmax value of its answer, 0..1.
    """

    place: int
    pixels: npt.NDArray[np.float32] | None
    truth: int
    answer: int
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """A test's outcome; ``confusion`` is int64 (classes, classes): rows are the truth, columns the answers."""

    names: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    right: tuple[Sample, ...]
    wrong: tuple[Sample, ...]

    @property
    def accuracy(self) -> float:
        """Return the share of right answers, 0..1."""
        return float(np.trace(self.confusion) / self.confusion.sum())


@dataclass(frozen=True, slots=True)
class FinalModel:
    """The protocol's plan and the verdict, which need the data set, or in ``missing`` why they are not there."""

    plan: secagg.Plan | None = None
    verdict: Verdict | None = None
    missing: str = ""


def judge_final_model(run: StoredRun, data_dir: Path | None, *, own_code: bool = False) -> FinalModel:
    """Restore the run's final model and test it. Errors are texts in the result, never raised.

    Nothing is downloaded. ``own_code`` allows the import of modules that the stored config names; without it, a look at
    somebody else's run executes none of their code.
    """
    config = run.config
    parts = (config.data.dataset, config.model, config.loss, *config.metrics)
    named = [name for name in parts if is_reference(name)]
    if any(is_in_program(name) for name in named):
        return FinalModel(missing="The run's data or model was an object of a Python program, which alone can test it.")
    if named and not own_code:
        return FinalModel(missing=f"The run's own code ({', '.join(named)}) is run with --own-code only.")
    try:
        dataset = (
            make_dataset(config.data.dataset, data_dir)
            if is_reference(config.data.dataset)
            else load_dataset(config.data.dataset, data_dir, download=False)
        )
        # Nothing is trained here, so the engine that trained the run (Ray, say) is not needed.
        final = Run(config, dataset, config.protocol.aggregator)
        RunFolder(run.path).restore([final], run.rounds_done)
        plan = _plan_of(run, final)
        if not can_judge(final.task, dataset):
            return FinalModel(plan=plan, missing="There is no test set of classes.")
        return FinalModel(plan=plan, verdict=verdict_on(final.model, dataset, config.seed))
    except (FLError, secagg.SecAggError) as error:
        return FinalModel(missing=f"The model could not be tested. {error}")


def _plan_of(run: StoredRun, final: Run) -> secagg.Plan | None:
    """Return the plan of the run's rounds, if it has one; for a served run, of rounds that ask all they may."""
    config, sizes, figures = run.config, final.layout.sizes, final.task.figures
    if config.privacy.epsilon is not None:
        length, classes = final.layout.size, final.dataset.num_classes
        if run.network is not None:
            reported = PrivateFigures.of_task(figures, config.privacy.ranges(), classes)
            return run.network.private_plans(config, length, reported).plan(run.network.invited(config))
        private, _, _ = plan_private_run(config, length, final.task, classes)
        return replace(private.session, reasons=private.reasons)
    if run.network is not None:
        return run.network.plans(config, sizes, figures).plan(run.network.invited(config))
    return session_plans(config, sizes, figures).plan(config.sample) if config.protocol.aggregator == "secure" else None


def can_judge(task: Task, dataset: Dataset) -> bool:
    """Return whether the model gives each test example one class."""
    return task.is_classification and dataset.has_classes and dataset.has_test


def verdict_on(model: nn.Module, dataset: Dataset, seed: int) -> Verdict:
    """Test ``model`` on the test examples, in float32; ``seed`` draws the examples that are shown."""
    with own_code_of(model):
        answers, confidences = _answers(model, dataset.test_images)
    truth = dataset.test_labels.numpy()
    classes = dataset.num_classes
    confusion = np.bincount(truth * classes + answers, minlength=classes * classes).reshape(classes, classes)
    low, high = float(dataset.test_images.min()), float(dataset.test_images.max())
    rng = np.random.default_rng(seed)

    def some(places: npt.NDArray[np.int64]) -> tuple[Sample, ...]:
        chosen = np.sort(rng.permutation(places)[:_SAMPLES])
        return tuple(
            Sample(
                place,
                _pixels(dataset.test_images[place], low, high),
                int(truth[place]),
                int(answers[place]),
                float(confidences[place]),
            )
            for place in chosen.tolist()
        )

    right = some(np.flatnonzero(answers == truth))
    wrong = some(np.flatnonzero(answers != truth))
    return Verdict(_class_names(dataset.name, classes), confusion.astype(np.int64), right, wrong)


def _answers(model: nn.Module, examples: torch.Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch_threads(1):
            logits = torch.cat([model(part) for part in torch.split(examples, _BATCH)]).float()
    finally:
        model.train(was_training)
    confidences, answers = torch.softmax(logits, dim=1).max(dim=1)
    return answers.numpy().astype(np.int64), confidences.numpy()


def _pixels(example: torch.Tensor, low: float, high: float) -> npt.NDArray[np.float32] | None:
    """Return standardized values on the scale 0..1; None if the example is not an image."""
    if example.ndim != 3 or example.shape[0] not in (1, 3):
        return None
    scaled = (example - low) / max(high - low, 1e-12)
    pixels: npt.NDArray[np.float32] = scaled.permute(1, 2, 0).squeeze(2).numpy()
    return pixels


def _class_names(dataset: str, num_classes: int) -> tuple[str, ...]:
    """Return one name per class; numbers where no names are known."""
    known = _CLASSES.get(dataset, _CHARACTERS if "femnist" in dataset else ())
    return known if len(known) == num_classes else tuple(map(str, range(num_classes)))
