"""The page's part on writers: inclusion under dropouts, and each writer's gain from a personal model.

Results of `secagg experiment` hold each writer's figures. `summarized` replaces them by percentiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.section import Section, table
from experiments.writers_figures import dropouts_figure, gains_figure
from fl.experiments.results import Document, arms_by_name
from fl.experiments.writers.arms import DROPOUT_MODELS, METHODS
from fl.experiments.writers.training import by_speed_groups
from fl.formatting import format_bytes, percent

GAINS, DROPOUTS = "mnist-writers-gains", "mnist-writers-dropouts"

Arms = dict[str, dict[str, Any]]

PERCENTILES = range(101)
"""The percentiles of the writers' gains that are kept."""

_SPEEDS = ("fastest fifth", "second", "third", "fourth", "slowest fifth")


def summarized(document: Document) -> Document:
    """Return the document without figures of single writers; a document without such figures is unchanged.

    A personal arm then has the `PERCENTILES` of its gains, `accuracy_gains` in points and `loss_gains` in nats, and its
    models' accuracy on the held-out examples of each group of writers, `accuracy_by_speed`.
    """
    arms = arms_by_name(document)
    shortened = []
    for arm in document["arms"]:
        if "slowness" in arm:
            arm = {key: value for key, value in arm.items() if key not in ("slowness", "included_rounds")}
        elif "by_client" in arm:
            gains, losses = accuracy_gains(arm), np.array(arm["by_client"]["loss_gain"])
            rest = {key: value for key, value in arm.items() if key != "by_client"}
            arm = rest | {"accuracy_gains": _percentiles(gains, 3), "loss_gains": _percentiles(losses, 5)}
            if trained := arms.get(f"federated-{arm['name'].partition('-')[2]}"):
                arm["accuracy_by_speed"] = _by_speed(trained, arms[arm["name"]])
        shortened.append(arm)
    return {**document, "arms": shortened}


def accuracy_gains(arm: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Return each writer's gain in points, float64 (writers,)."""
    columns = arm["by_client"]
    correct = np.array(columns["personal_correct"], dtype=np.float64) - np.array(columns["global_correct"])
    gains: npt.NDArray[np.float64] = 100 * correct / np.array(columns["held_out"])
    return gains


def _percentiles(values: npt.NDArray[np.float64], digits: int) -> list[float]:
    found = np.percentile(values, PERCENTILES, method="inverted_cdf")
    return [round(value, digits) for value in found.tolist()]


def section(document: Document) -> Section:
    """Return this experiment's part of the page."""
    arms = arms_by_name(summarized(document))
    trained = [name for name in DROPOUT_MODELS if f"federated-{name}" in arms]
    parts, figures = [], {}
    all_personal: Arms = {}
    if trained:
        parts += [_setting(arms[f"federated-{trained[0]}"]["settings"]["config"]), _table_of_runs(arms, trained)]
        parts += [_about_speeds(), _table_of_speeds(arms, trained)]
        parts.append(
            f"![share of the rounds that included a writer, by speed; accuracy by round](experiments/{DROPOUTS}.png)"
        )
        figures[DROPOUTS] = dropouts_figure({name: arms[f"federated-{name}"] for name in trained})
    for name in trained:
        personal = {method: arms[f"{method}-{name}"] for method in METHODS if f"{method}-{name}" in arms}
        if not personal:
            continue
        all_personal |= {arm["name"]: arm for arm in personal.values()}
        figures[f"{GAINS}-{name}"] = gains_figure(personal, f"Personal models where {DROPOUT_MODELS[name]}")
    if all_personal:
        parts += [_about_methods(all_personal), _table_of_gains(all_personal)]
        parts += [
            f"![each writer's gain by method](experiments/{file}.png)" for file in figures if file.startswith(GAINS)
        ]
    return Section("\n\n".join(parts), figures)


def _setting(config: dict[str, Any]) -> str:
    return (
        f"Each of the {config['clients']} writers of MNIST's training images (by QMNIST's extended labels; 19 to 131 "
        f"images each) is a client. A round samples {config['sample']}, of which {percent(config['dropout'])} drop out "
        f"somewhere in the protocol; sums are secure. Every writer holds out {percent(config['holdout'])} of their "
        "images from all training. *New writers*: MNIST's 10,000 test images, by 297 other people. *Known writers*: "
        "all clients' held-out images."
    )


def _table_of_runs(arms: Arms, trained: list[str]) -> str:
    rows = []
    for name in trained:
        arm = arms[f"federated-{name}"]
        included = arm["by_round"]["included"]
        rows.append(
            [
                arm["title"],
                str(arm["rounds"]),
                percent(arm["accuracy"]),
                percent(arm["held_out_accuracy"]),
                f"{min(included)} to {max(included)}",
                str(arm["aborted"]),
                f"{arm['seconds_per_round']:.1f}",
                f"{arm['training_seconds_per_round']:.1f}",
                f"{arm['server_seconds_per_round']:.2f}",
                format_bytes((arm["bytes_up"] + arm["bytes_down"]) / arm["rounds"]),
            ]
        )
    head = ["", "rounds", "new writers", "known writers", "in the sum", "aborted", "seconds a round", "of training"]
    return table([*head, "of the server", "bytes a round"], rows)


def _about_speeds() -> str:
    return (
        "Where *anyone vanishes*, all sampled writers are equally likely to drop out. Where *slow ones vanish*, "
        "writers have log-normal speeds, and as many drop out, but mostly the same slow ones, so the model contains "
        "less of them. By speed: the share of all rounds that included a writer's update, and the accuracy on the "
        "group's held-out images, of the global model and of personal ones (all layers fine-tuned):"
    )


def _table_of_speeds(arms: Arms, trained: list[str]) -> str:
    head, rows = ["writers"], [[speed] for speed in _SPEEDS]
    for name in trained:
        head += [f"{DROPOUT_MODELS[name]}: included", "accuracy"]
        for row, group in zip(rows, arms[f"federated-{name}"]["by_speed"], strict=True):
            row += [percent(group["included"]), percent(group["accuracy"])]
        if personal := arms.get(f"full-{name}"):
            head.append("fine-tuned")
            for row, accuracy in zip(rows, personal["accuracy_by_speed"], strict=True):
                row.append(percent(accuracy))
    return table(head, rows)


def _by_speed(trained: dict[str, Any], personal: dict[str, Any]) -> list[float | None]:
    """Return the personal models' accuracy on each group's held-out examples; None if it has none."""
    columns = personal["by_client"]
    measured = zip(columns["personal_correct"], columns["held_out"], strict=True)
    counts = dict(zip(columns["client"], measured, strict=True))
    found: list[float | None] = []
    for members in by_speed_groups(np.array(trained["slowness"])):
        of_group = [counts[client] for client in members.tolist() if client in counts]
        held_out = sum(count for _, count in of_group)
        found.append(sum(correct for correct, _ in of_group) / held_out if held_out else None)
    return found


def _about_methods(personal: Arms) -> str:
    clients = max(arm["summary"]["clients"] for arm in personal.values())
    examples = max(arm["summary"]["held_out"] for arm in personal.values())
    return (
        f"**Personal models.** {clients} writers hold out {examples:,} images together. On a writer's own images, the "
        "last layer is trained further, or all layers, or all with a pull back to the global model (FedProx's term). "
        "Ditto (Li et al. 2021) keeps a second model in the writer's rounds, pulled to the global model of that round, "
        "which is behind the last one. *Alone* trains on the writer's images only. About thirty held-out images make "
        "one image three points; the loss shows finer differences. Gains are personal minus global, each writer "
        "counted once."
    )


def _table_of_gains(personal: Arms) -> str:
    rows = []
    for arm in personal.values():
        summary = arm["summary"]
        accuracy, loss = summary["accuracy_gain"], summary["loss_gain"]
        rows.append(
            [
                arm["title"],
                percent(summary["global_accuracy"]),
                percent(summary["personal_accuracy"]),
                *(f"{100 * accuracy[key]:+.2f}" for key in ("p10", "median", "p90", "mean")),
                *(percent(summary[key]) for key in ("better", "same", "worse")),
                f"{loss['median']:+.4f} ({loss['p10']:+.4f} to {loss['p90']:+.4f})",
                percent(summary["lower_loss"]),
                f"{1000 * arm['seconds_per_client']:.0f}",
            ]
        )
    head = ["", "global", "personal", "gain, points: p10", "median", "p90", "mean", "writers better off", "the same"]
    return table([*head, "worse off", "loss lower by, nats: median (p10 to p90)", "for", "ms a writer"], rows)
