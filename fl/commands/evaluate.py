"""`secagg evaluate`: measure a trained model on test images, in plain text or with model and images kept secret."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer import Argument, Option

from fl.commands.output import open_console
from fl.errors import ConfigError
from fl.formatting import format_bytes, json_line, percent

if TYPE_CHECKING:
    from fl.encrypted import EncryptedResult
    from fl.learning.task import Task

_ENCRYPTED_ONLY = ("opening", "bounds", "compare", "timeout")


def register(app: typer.Typer, reported: Callable[[bool], AbstractContextManager[None]]) -> None:
    """Add the command to ``app``; ``reported`` prints the user's mistakes as all commands do."""

    @app.command()
    def evaluate(
        context: typer.Context,
        path: Annotated[Path, Argument(help="Folder of a run, or a model's safetensors file.")],
        model: Annotated[str, Option(help="Architecture of the model, needed for a file (default: the run's).")] = "",
        dataset: Annotated[
            str, Option(help="Data set whose test images are used, needed for a file (default: the run's).")
        ] = "",
        loss: Annotated[str, Option(help="Loss to measure (default: the run's; cross-entropy for a file).")] = "",
        metrics: Annotated[
            list[str] | None,
            Option("--metrics", "--metric", help="Metric; repeatable (default: the run's)."),
        ] = None,
        data_dir: Annotated[Path | None, Option(help="Folder with the data set's files.")] = None,
        images: Annotated[
            int | None, Option(help="Use only this many test images, the first ones (default: all).")
        ] = None,
        batch: Annotated[int, Option("--batch", "--batch-size", help="Images evaluated at once.")] = 50,
        encrypted: Annotated[
            bool,
            Option("--encrypted", help="Evaluate among three parties, none of which sees the model or the images."),
        ] = False,
        opening: Annotated[
            str,
            Option(
                "--open", help="Result to reveal: predictions, to the owner of the images; or accuracy, to both owners."
            ),
        ] = "predictions",
        bounds: Annotated[
            str,
            Option(
                help="guaranteed: no image can overflow; measured: taken from the model owner's examples, more precise."
            ),
        ] = "guaranteed",
        own_code: Annotated[
            bool,
            Option(
                "--own-code",
                help="Allow to run the code (package.module:name) that the run names as its data set or model.",
            ),
        ] = False,
        compare: Annotated[
            bool, Option("--compare", help="Also evaluate in plain text here, and report how many predictions agree.")
        ] = False,
        timeout: Annotated[
            float, Option(help="Stop after this many seconds without a message from the parties.")
        ] = 300.0,
        as_json: Annotated[bool, Option("--json", help="Print one JSON object on stdout.")] = False,
    ) -> None:
        """Measure a trained model on test images; with --encrypted, only their owners see the model and the images."""
        with reported(as_json):
            if not encrypted:
                _refuse_encrypted_options(context)
            subject = find_model(path, model, dataset, own_code=own_code, loss=loss, metrics=tuple(metrics or ()))
            console = open_console(stderr=as_json)
            if encrypted:
                result = _evaluate_encrypted(
                    subject,
                    data_dir,
                    {"images": images, "batch": batch, "opening": opening, "bounds": bounds},
                    compare=compare,
                    timeout=timeout,
                    console=console,
                )
            else:
                result = _evaluate_plainly(subject, data_dir, images, batch, console)
        if as_json:
            typer.echo(json_line(result))


@dataclass(frozen=True, slots=True)
class Subject:
    """A model's file, its architecture's name, and the data set, loss and metrics it is measured on."""

    model_path: Path
    model: str
    dataset: str
    loss: str
    metrics: tuple[str, ...]


def find_model(
    path: Path,
    model: str,
    dataset: str,
    *,
    own_code: bool = False,
    loss: str = "",
    metrics: tuple[str, ...] = (),
) -> Subject:
    """Return the model that the arguments name; ConfigError for a folder without a model, or a bare file.

    ``own_code`` allows running the code that a folder names: testing a model from elsewhere must not run the code that
    came with it. Code that the arguments name is always allowed.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if is_folder:
        from fl.learning.own_code import is_reference
        from fl.runs.checkpoint import RunFolder

        folder = RunFolder(path)
        config, rounds_done = folder.load_config()
        if model and model != config.model:
            raise ConfigError(f"the run in {path} trained {config.model}, not {model}: leave out --model")
        if not folder.model_path.is_file():
            raise ConfigError(
                f"{path} has no {folder.model_path.name} yet, after {rounds_done} of {config.rounds} rounds: "
                f"go on with secagg train --resume {shlex.quote(str(path))}"
            )
        named = [
            ("--model", "" if model else config.model),
            ("--dataset", "" if dataset else config.data.dataset),
            ("--loss", "" if loss else config.loss),
            *(("--metric", name) for name in (() if metrics else config.metrics)),
        ]
        _check_consent(path, [(option, name) for option, name in named if is_reference(name)], own_code)
        return Subject(
            folder.model_path,
            config.model,
            dataset or config.data.dataset,
            loss or config.loss,
            metrics or config.metrics,
        )
    if not is_file:
        raise ConfigError(f"{path} does not exist: name a run's folder or a model's file")
    if missing := [option for option, value in (("--model", model), ("--dataset", dataset)) if not value]:
        raise ConfigError(
            f"{path} is a model's file, which does not name its architecture and data: give {' and '.join(missing)}"
        )
    from fl.config.run_config import RunConfig

    usual = RunConfig.of(loss=loss or None, metrics=metrics or None)
    return Subject(path, model, dataset, usual.loss, usual.metrics)


def _check_consent(path: Path, own: list[tuple[str, str]], is_given: bool) -> None:
    """Raise ConfigError if the folder names code to run and the user has not allowed it."""
    if own and not is_given:
        code = ", ".join(name for _, name in own)
        options = " ".join(f"{option} {name}" for option, name in own)
        raise ConfigError(
            f"the run in {path} names code of its own ({code}): if you trust it, give --own-code, or name it: {options}"
        )


def _refuse_encrypted_options(context: typer.Context) -> None:
    given = []
    for name in _ENCRYPTED_ONLY:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            given.append("--open" if name == "opening" else f"--{name}")
    if given:
        raise ConfigError(f"{', '.join(given)} need --encrypted: give it, or leave them out")


def _evaluate_plainly(
    subject: Subject, data_dir: Path | None, images: int | None, batch: int, console: Console
) -> dict[str, Any]:
    from fl.learning.task import Task
    from fl.learning.training import evaluate
    from fl.runs.records import show_figure

    if batch < 1:
        raise ConfigError(f"batch must be at least 1, not {batch}")
    task = Task(subject.loss, subject.metrics)
    model, test_images, test_labels = _load(subject, data_dir, images, task)
    started = time.perf_counter()
    measured = evaluate(model, test_images, test_labels, batch_size=batch, task=task)
    milliseconds = 1000 * (time.perf_counter() - started) / measured.num_examples
    figures = measured.metrics if task.is_plain_classification else {"loss": measured.loss, **measured.metrics}
    shown = ", ".join(f"{escape(name)} [bold]{show_figure(name, value)}[/bold]" for name, value in figures.items())
    console.print(
        f"{escape(subject.model)} on {measured.num_examples:,} test images of {escape(subject.dataset)}: "
        f"{shown}, {milliseconds:.3f} ms an image",
        highlight=False,
        soft_wrap=True,
    )
    return {
        "model": subject.model,
        "dataset": subject.dataset,
        "encrypted": False,
        "images": measured.num_examples,
        "accuracy": measured.metrics.get("accuracy"),
        "loss": measured.loss,
        "metrics": measured.metrics,
        "milliseconds_per_image": milliseconds,
    }


def _load(subject: Subject, data_dir: Path | None, images: int | None, task: Task) -> tuple[Any, Any, Any]:
    """Return model, images and labels, in plain text."""
    from fl.errors import DataError
    from fl.learning.own_code import make_dataset
    from fl.learning.serialization import load_model

    dataset = make_dataset(subject.dataset, data_dir)
    if not dataset.has_test:
        raise DataError(f"{subject.dataset} has no test set to measure the model on")
    available = len(dataset.test_images)
    count = available if images is None else images
    if not 1 <= count <= available:
        raise DataError(
            f"{subject.dataset} has {available:,} test images: give --images from 1 to that number, not {count:,}"
        )
    shape = tuple(dataset.test_images.shape[1:])
    model = task.make_model(
        subject.model,
        dataset.test_images.dtype,
        dataset.test_labels,
        image_shape=shape,
        num_classes=dataset.num_classes,
        seed=0,
    )
    try:
        load_model(model, subject.model_path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {subject.model_path}: {error.strerror}") from error
    except Exception as error:  # noqa: BLE001  # safetensors and torch raise half a dozen kinds
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"{subject.model_path} does not hold a {subject.model} for images {shape}: {why}") from None
    return model, dataset.test_images[:count], dataset.test_labels[:count]


def _evaluate_encrypted(
    subject: Subject,
    data_dir: Path | None,
    settings: dict[str, Any],
    *,
    compare: bool,
    timeout: float,
    console: Console,
) -> dict[str, Any]:
    from fl.encrypted import EncryptedTask, MpycEvaluator
    from fl.encrypted.evaluator import require_mpyc

    if (subject.loss, subject.metrics) != ("cross-entropy", ("accuracy",)):
        raise ConfigError(
            "an encrypted evaluation counts right classes only: it needs the loss cross-entropy and the metric accuracy"
        )
    if timeout <= 0:
        raise ConfigError(f"timeout must be a positive number of seconds, not {timeout:g}")
    task = EncryptedTask(
        model_path=subject.model_path, model=subject.model, dataset=subject.dataset, data_dir=data_dir, **settings
    )
    _check_layers(subject)
    require_mpyc()
    evaluator = MpycEvaluator(timeout=timeout)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("starting three parties", total=task.images)

        def on_progress(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total, description="images, encrypted")

        result = evaluator.evaluate(task, on_progress)
    summary = {
        "model": subject.model,
        "dataset": subject.dataset,
        "encrypted": True,
        "opened": task.opening,
        "images": result.images,
        "accuracy": result.accuracy,
        "milliseconds_per_image": result.milliseconds_per_image,
        "seconds": result.seconds,
        "start_seconds": result.start_seconds,
        "cpu_seconds": list(result.cpu_seconds),
        "bytes_sent": list(result.bytes_sent),
        "batch": task.batch,
        "bounds": task.bounds,
        "statistical_security": result.statistical_security,
        "predictions": result.predictions,
    }
    if compare:
        summary |= _compared(subject, data_dir, result)
    _print_encrypted(console, summary)
    return summary


def _check_layers(subject: Subject) -> None:
    """Refuse layers that cannot be evaluated, before the parties start; models of the user's own are checked later."""
    from fl.encrypted.compiler import compile_layers
    from fl.learning.models import build_model
    from fl.learning.own_code import is_reference

    if is_reference(subject.model) or is_reference(subject.dataset):
        return
    # The kinds of layers do not depend on the size.
    side = 8 if subject.dataset == "digits" else 28
    compile_layers(build_model(subject.model, image_shape=(1, side, side), num_classes=10, seed=0))


def _compared(subject: Subject, data_dir: Path | None, result: EncryptedResult) -> dict[str, Any]:
    """Evaluate in plain text here; the user of --compare owns both model and images."""
    import torch

    from fl.learning.task import CLASSIFICATION
    from fl.learning.training import evaluate

    model, images, labels = _load(subject, data_dir, result.images, CLASSIFICATION)
    plain = evaluate(model, images, labels)
    agreement = None
    if result.predictions is not None:
        model.eval()
        with torch.no_grad():
            expected = torch.cat([model(part).argmax(dim=1) for part in images.split(500)])
        agreement = float((expected == torch.tensor(result.predictions)).double().mean())
    return {"plain_accuracy": plain.accuracy, "agreement": agreement}


def _print_encrypted(console: Console, summary: dict[str, Any]) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    line(
        f"{escape(summary['model'])} on {summary['images']:,} test images of {escape(summary['dataset'])}, encrypted: "
        f"accuracy [bold]{percent(summary['accuracy'])}[/bold], {summary['milliseconds_per_image']:.1f} ms an image"
    )
    if "plain_accuracy" in summary:
        agreement = summary["agreement"]
        agrees = "" if agreement is None else f"; {percent(agreement)} of the predictions agree"
        line(f"in plain text: accuracy {percent(summary['plain_accuracy'])}{agrees}")
    who = (
        "each image's class to the data's owner"
        if summary["opened"] == "predictions"
        else "the accuracy to both owners"
    )
    sent = format_bytes(sum(summary["bytes_sent"]))
    line(f"opened: {who}, and nothing else; {sent} between the parties, {summary['start_seconds']:.1f} s to start")
