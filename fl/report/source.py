"""Read a run's folder for its report, without the data set, and check each figure in it.

The figures come from the checkpoint alone: it is replaced in one step, while ``metrics.jsonl`` may be older or half a
file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fl.aggregation.phases import PhaseCost
from fl.aggregation.scales import Exceeded
from fl.config.run_config import RunConfig
from fl.config.served import NetworkSettings
from fl.errors import ConfigError
from fl.privacy.ledger import LEDGER, Ledger
from fl.report.extras import (
    LARGEST_WHOLE,
    MOST_SERIES,
    Origin,
    Personalization,
    Point,
    Series,
    is_number,
    load_origin,
    load_personalization,
    load_series,
)
from fl.runs.checkpoint import RunFolder
from fl.runs.personal_scores import SCORES, PersonalScores, load_scores
from fl.runs.records import RoundRecord
from secagg import Round
from transport.errors import MAX_ERROR_TEXT, printable

_CHECKPOINT = "checkpoint.safetensors"
_NETWORK = "network.json"

_Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as its folder has it.

    Attributes:
        path: the folder.
        config, rounds_done: of the checkpoint.
        records: the figures of all rounds and aggregators.
        network: the settings of `secagg serve`; None for a simulation.
        personal: the scores of the clients' personal models, if they have any.
        series, personalization, origin: files of `fl.report.extras`.
        ledger: what a private run has spent; None without noise, or if the file is missing.
        changed: when the checkpoint was written, seconds since 1970.
    """

    path: Path
    config: RunConfig
    rounds_done: int
    records: tuple[RoundRecord, ...]
    network: NetworkSettings | None
    series: tuple[Series, ...]
    personalization: Personalization | None
    personal: PersonalScores | None
    origin: Origin | None
    changed: float
    ledger: Ledger | None = None

    @property
    def own(self) -> list[RoundRecord]:
        """Return the rounds of the run's own aggregator."""
        return [record for record in self.records if record.aggregator == self.config.protocol.aggregator]

    @property
    def plain(self) -> list[RoundRecord]:
        """Return the rounds of the plain twin; none if the run has no twin."""
        return [record for record in self.records if record.aggregator != self.config.protocol.aggregator]


def load_run(path: Path) -> StoredRun:
    """Read a run's folder.

    Raises:
        ConfigError: it holds no run, or a file in it is damaged; the text is one line.
    """
    try:
        if not path.is_dir():
            raise ConfigError(f"there is no folder {path}: name the folder of a run, what --out said")
        checkpoint = path / _CHECKPOINT
        if not checkpoint.is_file():
            raise ConfigError(f"there is no run in {path}: it has no {_CHECKPOINT}")
        changed = checkpoint.stat().st_mtime
        is_served = (path / _NETWORK).exists()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    folder = RunFolder(path)
    try:
        config, rounds_done = folder.load_config()
        records = tuple(folder.restore([], rounds_done))
    except ConfigError as error:
        # Several runs may be read: the text must name this one.
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from None
    for record in records:
        _check(checkpoint, record, "a round's", _CHECKS)
    if (personal := load_scores(path)) is not None:
        _check(path / SCORES, personal, "its", _SCORES_CHECKS)
        for of in (personal.metrics, personal.personal_metrics):
            if not is_number({**of, "loss": 0}.get(personal.gain)):
                raise ConfigError(f"{path / SCORES} is damaged: it has no {personal.gain}")
    network = NetworkSettings.load(path) if is_served else None
    run = StoredRun(
        path=path,
        config=config if network is None else network.of_run(config),
        rounds_done=rounds_done,
        records=records,
        network=network,
        series=load_series(path),
        personalization=load_personalization(path),
        personal=personal,
        origin=load_origin(path),
        changed=changed,
        ledger=_ledger(path, config),
    )
    for name, rounds in (("own", run.own), ("plain", run.plain)):
        expected = rounds_done if name == "own" or rounds else 0
        if [record.round for record in rounds] != list(range(1, expected + 1)):
            raise ConfigError(f"{checkpoint} is damaged: its {name} rounds are not 1 to {rounds_done}")
    if not run.own:
        raise ConfigError(f"the run in {path} has done no round yet: there is nothing to report")
    return run


def _ledger(path: Path, config: RunConfig) -> Ledger | None:
    if config.privacy.epsilon is None or not (path / LEDGER).is_file():
        return None
    return Ledger.load(path / LEDGER)


def run_beside(run: StoredRun, named: str) -> StoredRun:
    """Return the run with another one's curves beside it; ``named`` is ``NAME=RUN_DIR``, errors as in `load_run`."""
    name, separator, place = named.partition("=")
    name = name.strip()
    if not (separator and name and place):
        raise ConfigError(f"--beside takes NAME=RUN_DIR, not {named!r}")
    taken = {run.config.protocol.aggregator, "plain", "notes", *(one.name for one in run.series)}
    if name in taken:
        raise ConfigError(f"--beside: there is a curve {name} already; choose another name")
    if len(run.series) >= MOST_SERIES:
        raise ConfigError(f"--beside: a figure holds {MOST_SERIES} curves beside the run's own")
    other = load_run(Path(place))
    dataset = run.config.data.dataset
    if other.config.data.dataset != dataset:
        raise ConfigError(f"--beside: {place} is a run on {other.config.data.dataset}, not on {dataset}")
    points = tuple(Point(record.round, record.accuracy, record.loss) for record in other.own)
    return replace(
        run, series=(*run.series, Series(name, points, f"{other.config.model}, {other.config.protocol.aggregator}"))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_WHOLE


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and printable(value, MAX_ERROR_TEXT) == value


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _by_name(name_check: _Check, check: _Check) -> _Check:
    return lambda value: (
        isinstance(value, dict) and all(name_check(name) and check(item) for name, item in value.items())
    )


def _is_round(name: Any) -> bool:
    return name in {round_.value for round_ in Round}


def _is_cost(value: Any) -> bool:
    return _by_name(_is_text, is_number)(value) and value.keys() == PhaseCost.__dataclass_fields__.keys()


def _is_exceeded(value: Any) -> bool:
    return _by_name(_is_text, _or_none(is_number))(value) and value.keys() == Exceeded.__dataclass_fields__.keys()


_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("round", "num_examples", "sampled", "held_out_examples"), _is_count),
    **dict.fromkeys(("bytes_up", "bytes_down", "model_bytes"), _is_count),
    **dict.fromkeys(("seconds", "training_seconds", "server_seconds", "client_seconds"), is_number),
    # A loss that was not finite is stored as null: JSON has no such number.
    **dict.fromkeys(("accuracy", "loss", "train_accuracy", "train_loss", "clipped"), _or_none(is_number)),
    **dict.fromkeys(
        ("held_out_accuracy", "held_out_loss", "noise", "epsilon", "l2_clip", "within_clip"), _or_none(is_number)
    ),
    **dict.fromkeys(("metrics", "train_metrics", "held_out_metrics"), _by_name(_is_text, _or_none(is_number))),
    "stddevs": _by_name(_is_text, is_number),
    "aggregator": _is_text,
    "included": lambda value: isinstance(value, tuple) and all(map(_is_count, value)),
    "dropped": _by_name(_is_round, _is_count),
    "refused": _by_name(_is_text, _is_text),
    "phases": _by_name(_is_round, _is_cost),
    "clipped_tensors": _by_name(_is_text, _is_exceeded),
    "clipped_weights": _or_none(_is_exceeded),
    "ring_difference": _or_none(_is_count),
    **dict.fromkeys(("aborted", "held_out_aborted"), _or_none(_is_text)),
}


_SCORES_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("method", "gain"), _is_text),
    **dict.fromkeys(("clients", "held_out"), _is_count),
    **dict.fromkeys(("loss", "personal_loss", "p10", "median", "p90", "better", "worse", "lower_loss"), is_number),
    **dict.fromkeys(("metrics", "personal_metrics"), _by_name(_is_text, _or_none(is_number))),
    "histogram": lambda value: all(map(_is_count, value)),
}


def _check(path: Path, figures: RoundRecord | PersonalScores, whose: str, checks: dict[str, _Check]) -> None:
    """Raise ConfigError for a figure of the wrong type or size: half a page would be worse than none."""
    for name, is_right in checks.items():
        value = getattr(figures, name)
        if not is_right(value):
            raise ConfigError(f"{path} is damaged: {whose} {name} is {str(value)[:40]!r}")
