"""Write the page: one HTML file that holds its styles and pictures, loads nothing and runs nothing."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

from fl.config.run_config import RunConfig
from fl.formatting import format_bytes, percent
from fl.report.charts import gains_chart
from fl.report.command_line import arm_command, is_default, train_command
from fl.report.gains import summarize_gains
from fl.report.plot import MOST_NUMBERED, data_url
from fl.report.privacy_view import PrivacyView, privacy_view
from fl.report.rounds_view import (
    client_charts,
    clients_chart,
    cost_rows,
    learning_charts,
    seconds,
    seconds_chart,
)
from fl.report.source import StoredRun
from fl.report.verdict import FinalModel, Sample, Verdict
from fl.runs.plan_json import graph_of, plan_to_json
from fl.runs.records import main_figures, show_figure
from fl.runs.resolution import resolution_warnings
from secagg import Round

MARK: Final = b'<meta name="generator" content="secagg report">'
"""Stands in the head of every page: a file that has it may be replaced by a newer page."""

_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Data", ("dataset", "partition", "alpha", "shards_per_client", "clients", "sample", "holdout")),
    (
        "Clients' training",
        (
            "model", "epochs", "batch_size", "optimizer", "learning_rate", "learning_rate_decay", "momentum",
            "weight_decay", "proximal",
        ),
    ),
    (
        "Server",
        (
            "rounds", "server_optimizer", "server_learning_rate", "server_momentum", "server_beta2", "server_tau",
        ),
    ),
    ("Aggregation", ("aggregator", "compare", "graph", "adversary", "corrupt", "threshold", "clip", "value_bits")),
    (
        "Privacy",
        (
            "epsilon", "delta", "l2_clip", "clip_quantile", "clip_rate", "figures_cost", "figure_ranges",
            "ring_bits",
        ),
    ),
    ("Dropouts", ("dropout", "dropout_at", "dropout_model")),
    ("Execution", ("seed", "engine", "threads", "channels_last", "bfloat16")),
)  # fmt: skip

# Settings that matter only if another one has the value beside it.
_ONLY_WITH = {"alpha": ("partition", "dirichlet"), "shards_per_client": ("partition", "shards")}


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the headline."""

    name: str
    value: str
    note: str = ""


def render_page(run: StoredRun, final: FinalModel, *, written: datetime | None = None) -> bytes:
    """Return the page as UTF-8; ``written`` is its date, by default now."""
    config = run.config
    own = run.own
    personalization = run.personalization
    privacy = privacy_view(run)
    context: dict[str, Any] = {
        "title": f"{config.model} on {config.data.dataset}",
        "run": run,
        "config": config.settled().options(),
        "last": own[-1],
        "tiles": _tiles(run, final, privacy),
        "state": _state(run),
        "learning": learning_charts(run),
        "at_clients": client_charts(run),
        "privacy": privacy,
        "clients": clients_chart(run),
        "time": seconds_chart(run),
        "costs": cost_rows(run),
        "cost_most": _most(run),
        "rounds": own,
        "plain": {record.round: record for record in run.plain},
        "protocol_rounds": [r.value for r in Round if any(r.value in record.dropped for record in own)],
        "aborted": [record for record in own if record.aborted],
        "warnings": list(resolution_warnings(own[-1], has_fixed_clip=config.protocol.clip is not None)),
        "refused": [(record.round, *item) for record in own for item in record.refused.items()],
        "gains": None if personalization is None else gains_chart(personalization.methods, personalization.what),
        "gain_rows": [] if personalization is None else [summarize_gains(one) for one in personalization.methods],
        "verdict": final.verdict,
        "missing": final.missing,
        "matrix": None if final.verdict is None else _matrix(final.verdict),
        "samples": [] if final.verdict is None else _sample_groups(final.verdict),
        "mismatch": _mismatch(run, final),
        "groups": _parameter_groups(config),
        "plan": None if final.plan is None else plan_to_json(final.plan),
        "command": _command(run),
        "versions": _versions(),
        "written": (written or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        "changed": datetime.fromtimestamp(run.changed, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        # The style sheet is the package's: it holds nothing of the user's.
        "style": Markup(_template_text("report.css")),  # noqa: S704
    }
    return _environment().get_template("report.html").render(context).encode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, bytes=_bytes_text, seconds=_seconds_text, loss=_loss)
    return environment


def _template_text(name: str) -> str:
    return (files("fl.report") / "templates" / name).read_text(encoding="utf-8")


def _bytes_text(value: float) -> str:
    return format_bytes(value) if value else "-"


def _seconds_text(value: float) -> str:
    return seconds(value) if value else "-"


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _command(run: StoredRun) -> str | None:
    """Return the command that repeats the run; None if that takes several machines."""
    if run.origin is not None:
        return arm_command(run.origin)
    return None if run.network is not None else train_command(run.config)


def _state(run: StoredRun) -> tuple[str, str]:
    """Return how far the run came, and the CSS class that colors it."""
    done, wanted = run.rounds_done, run.config.rounds
    if run.origin is not None:
        return f"finished: {run.origin.outcome}", "good"
    return ("finished", "good") if done >= wanted else (f"stopped after round {done} of {wanted}", "warn")


def _tiles(run: StoredRun, final: FinalModel, privacy: PrivacyView | None) -> list[Tile]:
    config, own = run.config, run.own
    last, count = own[-1], len(own)
    if last.accuracy is None:
        tiles = [
            Tile(name if name.startswith("training ") else f"test {name}", show_figure(name, value), "last round")
            for name, value in main_figures(last).items()
        ]
    else:
        best = max(own, key=lambda record: record.accuracy or 0)
        tiles = [Tile("test accuracy", percent(last.accuracy), f"best: {percent(best.accuracy)} in round {best.round}")]
    if run.plain and last.accuracy is not None:
        behind = 100 * ((last.accuracy or 0) - (run.plain[-1].accuracy or 0))
        tiles.append(
            Tile("plain averaging beside it", percent(run.plain[-1].accuracy), f"secure is {behind:+.2f} points")
        )
    if config.data.holdout and last.held_out_accuracy is not None:
        tiles.append(
            Tile(
                "on held-out examples",
                percent(last.held_out_accuracy),
                f"{last.held_out_examples:,} examples at clients"
                if privacy is None
                else f"noise of ±{percent(last.stddevs.get('held_out_accuracy'))}",
            )
        )
    if privacy is not None:
        tiles.append(Tile("epsilon", f"{privacy.spent:.4g}", f"of {privacy.epsilon:g}, at delta {privacy.delta:g}"))
    included = sum(len(record.included) for record in own) / count
    tiles.append(Tile("communication rounds", f"{count:,}", f"of {config.rounds:,} planned"))
    tiles.append(
        Tile("clients", f"{config.data.clients:,}", f"{config.sample:,} asked a round, {included:.1f} in the sum")
    )
    if final.plan is not None:
        params = final.plan.parameters
        among = f"{params.num_clients}" if params.is_complete else f"{params.degree} neighbours"
        note = f"{params.adversary.value} server, {graph_of(params).value} graph"
        tiles.append(Tile("threshold", f"{params.threshold} of {among}", note))
    differences = [record.ring_difference for record in own if record.ring_difference is not None]
    if differences:
        tiles.append(
            Tile("secure sum less plain sum", f"{max(differences):,}", f"largest of {len(differences)} rounds")
        )
    traffic = sum(record.bytes_up + record.bytes_down + record.model_bytes for record in own) / count / config.sample
    tiles.append(Tile("a client's traffic", format_bytes(traffic), "a round, the model's download included"))
    tiles.append(Tile("a round", seconds(sum(record.seconds for record in own) / count), "the test not counted"))
    return tiles


def _most(run: StoredRun) -> dict[str, float]:
    """Return the largest value of each column of the costs, never 0: the bars are shares of it."""
    rows = cost_rows(run)
    names = [field.name for field in dataclasses.fields(rows[0]) if field.name != "name"]
    return {name: max(1e-12, *(getattr(row, name) for row in rows)) for name in names}


def _matrix(verdict: Verdict) -> dict[str, Any]:
    """Return the confusion matrix by rows, each cell with its share of the row."""
    confusion = verdict.confusion
    truths, answers = confusion.sum(axis=1), confusion.sum(axis=0)
    rows = []
    for index, name in enumerate(verdict.names):
        total, right = int(truths[index]), int(confusion[index, index])
        rows.append(
            {
                "name": name,
                "cells": [
                    _cell(int(value), total, is_right=column == index) for column, value in enumerate(confusion[index])
                ],
                "total": total,
                "recall": right / total if total else None,
                "precision": right / int(answers[index]) if answers[index] else None,
            }
        )
    return {"rows": rows, "numbered": len(rows) <= MOST_NUMBERED}


def _cell(count: int, total: int, *, is_right: bool) -> dict[str, Any]:
    """Return a cell's number and depth of color: mistakes get more, since even a few are worth seeing."""
    share = count / total if total else 0.0
    color = share if is_right else min(1.0, 2.5 * share)
    return {"count": count, "color": color, "right": is_right, "strong": color > 0.5}


def _sample_groups(verdict: Verdict) -> list[dict[str, Any]]:
    right, wrong = int(verdict.confusion.trace()), int(verdict.confusion.sum() - verdict.confusion.trace())
    groups = (("Mistaken", verdict.wrong, wrong), ("Recognized", verdict.right, right))
    return [
        {"title": title, "of": of, "images": [_image(sample, verdict.names) for sample in samples]}
        for title, samples, of in groups
        if samples and samples[0].pixels is not None
    ]


def _image(sample: Sample, names: tuple[str, ...]) -> dict[str, Any]:
    truth, answer = names[sample.truth], names[sample.answer]
    return {
        "url": None if sample.pixels is None else data_url(sample.pixels),
        "truth": truth,
        "answer": answer,
        "right": sample.truth == sample.answer,
        "confidence": percent(sample.confidence),
        "place": sample.place,
    }


def _mismatch(run: StoredRun, final: FinalModel) -> str:
    """Return a warning if the report tested on other data than the run; empty if it did not."""
    recorded = run.own[-1].accuracy
    if final.verdict is None or recorded is None:
        return ""
    # On another processor a few answers may change.
    if abs(final.verdict.accuracy - recorded) * final.verdict.confusion.sum() <= 5:
        return ""
    return (
        f"The run recorded {percent(recorded)}, but on the data found here the model has "
        f"{percent(final.verdict.accuracy)}: the data or the program differ from the run's."
    )


def _parameter_groups(config: RunConfig) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Return all settings as (group, [(name, value, whether it was chosen)]); those that no group names come last."""
    named = {name for _, names in _GROUPS for name in names}
    values = config.settled().options()
    others = tuple(name for name in values if name not in named)
    groups = []
    for title, names in (*_GROUPS, ("Others", others)):
        rows = []
        for name in names:
            if name in _ONLY_WITH and values[_ONLY_WITH[name][0]] != _ONLY_WITH[name][1]:
                continue
            rows.append((name.replace("_", " "), _shown(values[name]), not is_default(config, name)))
        if rows:
            groups.append((title, rows))
    return groups


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "automatic"
    return ", ".join(value) if isinstance(value, tuple) else f"{value}"


def _versions() -> list[tuple[str, str]]:
    """Return the versions that wrote this page; a run's folder does not record those that trained it."""
    found = [("Python", platform.python_version())]
    for package in ("secagg-fl", "torch", "numpy", "cryptography"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "unknown"))
    return [*found, ("platform", f"{platform.system()} {platform.machine()}")]
