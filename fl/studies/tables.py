"""A study's results as tables: one row for each run, and one for each of its rounds."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from fl.errors import ConfigError
from fl.files import replace_file
from fl.studies.grid import shown

Row = dict[str, Any]
"""The values of one row, by column; None where there is no value."""

RUN_COLUMNS = {
    "run": "folder of the run in `runs/`",
    "seed": "seed of the run",
    "outcome": "`finished`; `failed`: training diverged, or all rounds were aborted; `impossible`: refused before it "
    "started; `open`: not run to its end",
    "reason": "why it failed or was refused",
    "rounds_done": "rounds trained",
    "accuracy": "accuracy of the last model on the test set, 0 to 1",
    "loss": "its loss there, in nats",
    "best_accuracy": "highest test accuracy of all rounds",
    "train_accuracy": "accuracy of the clients' models of the last round on their own examples",
    "train_loss": "their loss there",
    "held_out_accuracy": "accuracy of the last model on the clients' held-out examples (`holdout`)",
    "held_out_loss": "its loss there",
    "seconds": "seconds of all rounds, without tests; runs that train side by side slow each other down",
    "training_seconds_per_round": "seconds of all clients' training",
    "server_seconds_per_round": "seconds of the server's part of the protocol",
    "client_seconds_per_round": "seconds of the median client's part of the protocol",
    "bytes_up": "bytes that all clients sent",
    "bytes_down": "bytes that all clients received, with the model",
    "aborted": "rounds that came to no sum",
    "parameters": "trainable parameters of the model",
}
"""The columns of a run's row, besides the axes, and what they hold."""

ROUND_COLUMNS = {
    "run": "folder of the run in `runs/`",
    "seed": "seed of the run",
    "round": "number of the round, from 1",
    "accuracy": "accuracy of the new model on the test set, 0 to 1",
    "loss": "its loss there, in nats",
    "train_accuracy": "accuracy of the clients' models on their own examples",
    "train_loss": "their loss there",
    "held_out_accuracy": "accuracy of the new model on the clients' held-out examples (`holdout`)",
    "held_out_loss": "its loss there",
    "sampled": "clients that were asked",
    "included": "clients whose updates are in the sum",
    "dropped": "clients that dropped out",
    "clipped": "fraction of the updates' elements that were clipped",
    "noise": "rounding noise over the mean update",
    "bytes_up": "bytes that all clients sent",
    "bytes_down": "bytes that all clients received, without the model",
    "model_bytes": "bytes of the model, over all clients",
    "seconds": "seconds of the round, without the test",
    "training_seconds": "seconds of all clients' training",
    "server_seconds": "seconds of the server's part of the protocol",
    "client_seconds": "seconds of the median client's part of the protocol",
    "aborted": "why the model did not change",
}
"""The columns of a round's row, besides the axes, and what they hold."""


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns of all rows, in their order."""
    return [*dict.fromkeys(name for row in rows for name in row)]


def csv_of(rows: Sequence[Row]) -> bytes:
    """Return the rows as CSV with a header: UTF-8, an empty field for None, lists joined by ``+``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else _field(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def save_table(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV, and beside it as Parquet if pyarrow is installed, each file in one step.

    Raises:
        ConfigError: a file cannot be written.
    """
    save_bytes(path, csv_of(rows))
    if rows and importlib.util.find_spec("pyarrow") is not None:
        save_bytes(path.with_suffix(".parquet"), _parquet_of(rows))


def save_bytes(path: Path, data: bytes) -> None:
    """Replace the file in one step, and make its folder; ConfigError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise ConfigError(f"cannot write to {path}: {error.strerror}") from error


def _parquet_of(rows: Sequence[Row]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    values = {name: [_plain(row.get(name)) for row in rows] for name in columns_of(rows)}
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(values), file)
    return file.getvalue()


def _field(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else _plain(shown(value) if isinstance(value, bool) else value)


def _plain(value: Any) -> Any:
    return shown(value) if isinstance(value, list | tuple) else value


def metrics_of(values: Mapping[str, Any]) -> Row:
    """Return a column for each of a task's own metrics, such as ``metrics.mae``; accuracy has columns of its own."""
    return {
        f"{group}.{name}": value
        for group in ("metrics", "train_metrics", "held_out_metrics")
        for name, value in values.get(group, {}).items()
        if name != "accuracy"
    }


def personal_columns(scores: Mapping[str, Any]) -> Row:
    """Return a column for each figure of the clients' own models (`fl.runs.personal_scores.PersonalScores`)."""
    figures = {name: value for name, value in scores.items() if name not in ("method", "histogram")}
    row: Row = {}
    for name, value in figures.items():
        parts = {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
        row |= {f"personal.{column}": one for column, one in parts.items()}
    return row


def figures_of(rounds: Sequence[Row]) -> Row:
    """Return a run's figures from the rows of its rounds, at least one."""
    last = rounds[-1]
    accuracies = [row["accuracy"] for row in rounds if row["accuracy"] is not None]
    times = ("training_seconds", "server_seconds", "client_seconds")
    return {
        "rounds_done": len(rounds),
        **{name: last[name] for name in RUN_COLUMNS if name.endswith(("accuracy", "loss")) and name in last},
        "best_accuracy": max(accuracies, default=None),
        "seconds": sum(row["seconds"] for row in rounds),
        **{f"{name}_per_round": mean(row[name] for row in rounds) for name in times},
        "bytes_up": sum(row["bytes_up"] for row in rounds),
        "bytes_down": sum(row["bytes_down"] + row["model_bytes"] for row in rounds),
        "aborted": sum(row["aborted"] is not None for row in rounds),
        **{name: value for name, value in last.items() if name.startswith("metrics.")},
    }


def picked(values: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    """Return the values of these columns, as far as there are any."""
    return {name: values[name] for name in columns if name in values}
