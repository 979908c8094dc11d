"""Evaluation of a secret model on secret images: the interface, and its implementation with MPyC."""

from __future__ import annotations

import importlib.util
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fl.encrypted.certificates import write_certificates
from fl.encrypted.jobs import DATA_OWNER, MODEL_OWNER, PARTIES, Arithmetic, Bounds, DataInput, Job, ModelInput, Opening
from fl.encrypted.processes import Event, PartyProcesses
from fl.encrypted.steps import STATISTICAL_SECURITY
from fl.errors import ConfigError

MOST_IN_A_BATCH = 10_000


@dataclass(frozen=True, kw_only=True)
class EncryptedTask:
    """The task of an evaluation. It names files, which only their owners read.

    model_path: a safetensors file of the architecture ``model``, one of `fl.learning.models.MODELS` or the user's own.
    dataset, data_dir: see `fl.data.load_dataset`; the test images are used.
    images: number of images, from the first on; default: all. batch: number of images at a time.
    opening: ``predictions``: the data's owner learns each image's class. ``accuracy``: both owners learn the share of
        correct predictions, and no party learns a prediction.
    bounds: ``guaranteed``: no image can overflow the fixed-point numbers. ``measured``: the model's owner measures
        bounds on its own training images, which leaves more bits for precision.

    Raises:
        ConfigError: a number or name is invalid.
    """

    model_path: Path
    model: str
    dataset: str
    data_dir: Path | None = None
    images: int | None = None
    batch: int = 50
    opening: Opening = "predictions"
    bounds: Bounds = "guaranteed"

    def __post_init__(self) -> None:
        problems = []
        if self.images is not None and self.images < 1:
            problems.append(f"images must be at least 1, not {self.images}")
        if not 1 <= self.batch <= MOST_IN_A_BATCH:
            problems.append(f"batch must be between 1 and {MOST_IN_A_BATCH:,}, not {self.batch}")
        if self.opening not in ("predictions", "accuracy"):
            problems.append(f"opening must be predictions or accuracy, not {self.opening!r}")
        if self.bounds not in ("guaranteed", "measured"):
            problems.append(f"bounds must be guaranteed or measured, not {self.bounds!r}")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class EncryptedResult:
    """The opened result, and the cost.

    predictions: the classes, or None if only the accuracy was opened. accuracy: the share of correct ones.
    seconds: from the sharing of the first image to the last result; cpu_seconds: processor time of each party in it.
    start_seconds: time before that, for processes, connections, and sharing the model.
    bytes_sent: bytes from each party to the others, including the model. widths: text with the bits of the comparisons.
    """

    predictions: list[int] | None
    accuracy: float
    images: int
    seconds: float
    start_seconds: float
    cpu_seconds: tuple[float, ...]
    bytes_sent: tuple[int, ...]
    widths: str
    statistical_security: int

    @property
    def milliseconds_per_image(self) -> float:
        """Return the time per image in milliseconds, without the start."""
        return 1000 * self.seconds / self.images


OnProgress = Callable[[int, int], None]
"""A function that is called with the number of finished images, and of all images."""


class EncryptedEvaluator(Protocol):
    """A way to run one party's model on another party's images, and to open only the result that the task names."""

    def evaluate(self, task: EncryptedTask, on_progress: OnProgress) -> EncryptedResult:
        """Run the task.

        Raises:
            FLError: the model, the data or the machine is unsuitable, or a party failed.
        """
        ...


class MpycEvaluator:
    """An evaluator with three processes on this machine that run MPyC over loopback TCP.

    timeout: seconds without an event from any party, after which all are ended.
    tls: whether connections are encrypted and authenticated; False is for measurements only.
    arithmetic: ``objects`` runs unchanged MPyC on Python's integers; for measurements only.
    """

    def __init__(self, *, timeout: float = 300, tls: bool = True, arithmetic: Arithmetic = "words") -> None:
        self._timeout, self._tls, self._arithmetic = timeout, tls, arithmetic

    def evaluate(self, task: EncryptedTask, on_progress: OnProgress) -> EncryptedResult:
        """Run the task; see `EncryptedEvaluator`."""
        require_mpyc()
        started = time.perf_counter()
        widths = ""

        def on_event(event: Event) -> None:
            nonlocal widths
            if event.name == "shared":
                widths = event.values["widths"]
            elif event.name == "progress" and event.party == DATA_OWNER:
                on_progress(event.values["images"], event.values["total"])

        with (
            tempfile.TemporaryDirectory(prefix="secagg-mpc-") as folder,
            self._processes(task, Path(folder)) as parties,
        ):
            results = parties.run(on_event, self._timeout)
        owner = results[DATA_OWNER]
        return EncryptedResult(
            predictions=owner.get("predictions"),
            accuracy=owner["accuracy"],
            images=owner["images"],
            seconds=owner["seconds"],
            start_seconds=time.perf_counter() - started - owner["seconds"],
            cpu_seconds=tuple(result["cpu_seconds"] for result in results),
            bytes_sent=tuple(result["bytes_sent"] for result in results),
            widths=widths,
            statistical_security=STATISTICAL_SECURITY,
        )

    def _processes(self, task: EncryptedTask, folder: Path) -> PartyProcesses:
        folders = [folder / str(party) for party in range(PARTIES)]
        for own in folders:
            own.mkdir(mode=0o700)
        if self._tls:
            write_certificates(folders)
        return PartyProcesses(make_jobs(task, folders, free_ports(), tls=self._tls, arithmetic=self._arithmetic))


def make_jobs(
    task: EncryptedTask, folders: list[Path], ports: tuple[int, int, int], *, tls: bool, arithmetic: Arithmetic
) -> list[Job]:
    """Return a job for each party, which names only the party's own files."""
    data_dir = None if task.data_dir is None else str(task.data_dir.resolve())
    model = ModelInput(
        path=str(task.model_path.resolve()),
        name=task.model,
        calibration=task.dataset if task.bounds == "measured" else None,
        data_dir=data_dir if task.bounds == "measured" else None,
    )
    data = DataInput(
        dataset=task.dataset, data_dir=data_dir, images=task.images, batch=task.batch, opening=task.opening
    )
    jobs = [
        Job(party=party, ports=ports, folder=str(own), tls=tls, arithmetic=arithmetic)
        for party, own in enumerate(folders)
    ]
    jobs[MODEL_OWNER] = replace(jobs[MODEL_OWNER], model=model)
    jobs[DATA_OWNER] = replace(jobs[DATA_OWNER], data=data)
    return jobs


def require_mpyc() -> None:
    """Raise ConfigError if MPyC is not installed."""
    if importlib.util.find_spec("mpyc") is None:
        raise ConfigError("encrypted evaluation needs MPyC: pip install '.[mpc]' in the repository's folder")


def free_ports() -> tuple[int, int, int]:
    """Return three free ports. If another program takes one in the meantime, a party reports that it is in use."""
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        sockets = (first, second, third)
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    return ports[0], ports[1], ports[2]
