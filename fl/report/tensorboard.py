"""Write TensorBoard's event files, for ``tensorboard --logdir RUN_DIR/tensorboard``.

Each aggregator and each further curve is a TensorBoard run of its own, so that they lie over each other under one tag.
The step is the communication round. Each writer begins with all finished rounds, and its start at step 0 makes
TensorBoard forget what it read of them before: after a crash no round is missing, and none is there twice.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fl.config.run_config import RunConfig
from fl.errors import ConfigError
from fl.report.extras import Series
from fl.report.plot import confusion_plot, samples_plot
from fl.report.verdict import Verdict
from fl.runs.records import RoundRecord
from secagg import Plan

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""Name of the folder of event files, in the run's folder."""

# TensorBoard sorts by name: these two come first.
_ACCURACY, _LOSS = "accuracy/test", "loss/test"


def require_tensorboard() -> None:
    """Raise ConfigError if the package is missing. Call it before anything is trained."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--tensorboard needs the package tensorboard: pip install '.[tensorboard]' in the repository's folder "
            f"({error})"
        ) from None


class EventFiles:
    """Write a run's event files during the run, or afterwards.

    Args:
        folder: the run's folder; the files go into ``FOLDER`` in it.
        config, plan: the run's, shown as text.
        records: the finished rounds.
        ended: the time at which the last of them ended, seconds since 1970.

    Raises:
        ConfigError: the package is missing, or the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, config: RunConfig, plan: Plan | None, records: Sequence[RoundRecord], *, ended: float
    ) -> None:
        require_tensorboard()
        self.path = folder / FOLDER
        self._config = config
        self._writers: dict[str, SummaryWriter] = {}
        self._folders: set[Path] = set()
        own = self._writer(config.protocol.aggregator)
        with _writable(self.path):
            _write_texts(own, config, plan, ended)
            _write_settings(own, config, ended)
        for record, when in _times(records, ended):
            self._add(record, when)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _writable(self.path):
            for writer in self._writers.values():
                writer.close()

    def add(self, records: Sequence[RoundRecord]) -> None:
        """Write one round's records of all aggregators, and flush them so that TensorBoard shows them at once."""
        for record in records:
            self._add(record, time.time())
        with _writable(self.path):
            for writer in self._writers.values():
                writer.flush()

    def add_series(self, series: Sequence[Series], *, ended: float) -> None:
        """Write curves beside the run's own."""
        for one in series:
            writer = self._writer(one.name)
            with _writable(self.path):
                for point in one.points:
                    _scalar(writer, _ACCURACY, point.accuracy, point.round, ended)
                    _scalar(writer, _LOSS, point.loss, point.round, ended)

    def add_verdict(self, verdict: Verdict, rounds_done: int, *, ended: float) -> None:
        """Write the final model's confusion matrix, and sample images if the examples are images."""
        writer = self._writer(self._config.protocol.aggregator)
        figures = {"model/confusion": confusion_plot(verdict), "model/samples": samples_plot(verdict)}
        with _writable(self.path):
            for tag, figure in figures.items():
                if figure is not None:
                    writer.add_figure(tag, figure, rounds_done, walltime=ended)

    def _add(self, record: RoundRecord, when: float) -> None:
        writer = self._writer(record.aggregator)
        with _writable(self.path):
            for tag, value in _scalars(record):
                _scalar(writer, tag, value, record.round, when)

    def _writer(self, name: str) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        if name not in self._writers:
            folder = self.path / _folder_name(name)
            while folder in self._folders:
                folder = folder.with_name(folder.name + "-2")
            self._folders.add(folder)
            with _writable(self.path):
                # SummaryWriter would fail in a thread of its own.
                folder.mkdir(parents=True, exist_ok=True)
                self._writers[name] = SummaryWriter(str(folder), purge_step=0)
        return self._writers[name]


def _scalars(record: RoundRecord) -> Iterator[tuple[str, float | None]]:
    yield _ACCURACY, record.accuracy
    yield _LOSS, record.loss
    yield "accuracy/clients' training", record.train_accuracy
    yield "loss/clients' training", record.train_loss
    yield "accuracy/held out", record.held_out_accuracy
    yield "loss/held out", record.held_out_loss
    for where, metrics in (
        ("test", record.metrics),
        ("clients' training", record.train_metrics),
        ("held out", record.held_out_metrics),
    ):
        yield from ((f"{name}/{where}", value) for name, value in metrics.items() if name != "accuracy")
    yield "clients/asked", record.sampled
    yield "clients/in the sum", len(record.included)
    yield "clients/refused", len(record.refused)
    yield "clients/clipped share", record.clipped
    yield "clients/rounding noise over mean update", record.noise
    yield "clients/clipped tensors", len(record.clipped_tensors)
    # Zeros too: a gap would look like a round that was not measured.
    for round_ in {**record.phases, **record.dropped}:
        yield f"clients/vanished in {round_}", record.dropped.get(round_, 0)
    yield "privacy/epsilon", record.epsilon
    yield "privacy/L2 clip", record.l2_clip
    yield "privacy/share within the clip", record.within_clip
    for name, value in record.stddevs.items():
        yield f"privacy/noise in {name}", value
    yield "seconds/round", record.seconds
    yield "seconds/clients' training", record.training_seconds
    yield "seconds/server", record.server_seconds
    yield "seconds/median client", record.client_seconds
    yield "bytes/up", record.bytes_up
    yield "bytes/down", record.bytes_down
    yield "bytes/model download", record.model_bytes
    yield "clients/round aborted", float(record.aborted is not None)
    for round_, cost in record.phases.items():
        yield f"seconds by phase, server/{round_}", cost["server_seconds"]
        yield f"seconds by phase, median client/{round_}", cost["client_seconds"]
        yield f"bytes by phase/{round_}", cost["bytes_up"] + cost["bytes_down"]


def _write_texts(writer: SummaryWriter, config: RunConfig, plan: Plan | None, when: float) -> None:
    settings = config.to_json()
    rows = [f"| {name} | {_markdown(str(value))} |" for name, value in settings.items()]
    _text(writer, "parameters", "\n".join(["| setting | value |", "|---|---|", *rows]), when)
    if plan is not None:
        _text(writer, "the planner's reasons", "\n".join(f"- {_markdown(reason)}" for reason in plan.reasons), when)


def _write_settings(writer: SummaryWriter, config: RunConfig, when: float) -> None:
    """Write the settings for the HPARAMS tab, which compares the runs of several folders."""
    from torch.utils.tensorboard.summary import hparams

    settings = {
        name: ", ".join(value) if isinstance(value, list) else value for name, value in config.to_json().items()
    }
    summaries = hparams(settings, {_ACCURACY: 0.0, _LOSS: 0.0})  # type: ignore[no-untyped-call]
    # add_hparams would begin a run of its own, with these zeros as its curves.
    for summary in summaries:
        writer.file_writer.add_summary(summary, walltime=when)  # type: ignore[attr-defined]


def _text(writer: SummaryWriter, tag: str, text: str, when: float) -> None:
    writer.add_text(tag, text, 0, walltime=when)


def _scalar(writer: SummaryWriter, tag: str, value: float | None, step: int, when: float) -> None:
    # TensorBoard draws no NaN: a loss that is not finite is a gap.
    if value is not None and math.isfinite(value):
        writer.add_scalar(tag, value, step, walltime=when)


def _times(records: Sequence[RoundRecord], ended: float) -> list[tuple[RoundRecord, float]]:
    """Estimate when each round ended: one after the other without pauses, the last at ``ended``."""
    lasted: dict[int, float] = {}
    for record in records:
        lasted[record.round] = lasted.get(record.round, 0.0) + record.seconds
    after = 0.0
    ends = {}
    for number in sorted(lasted, reverse=True):
        ends[number] = ended - after
        after += lasted[number]
    return [(record, ends[record.round]) for record in records]


def _folder_name(series: str) -> str:
    """Return a folder name that is valid on every system and cannot leave the parent folder."""
    return re.sub(r"[^\w-]+", "-", series)[:60].strip("-") or "series"


def _markdown(text: str) -> str:
    """Escape the user's text: TensorBoard renders Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", " ".join(text.split()))


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write TensorBoard's files to {path}: {error.strerror or error}") from None
