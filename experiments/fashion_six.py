"""The page's part on six clients: a table and a figure."""

from __future__ import annotations

from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from experiments.section import Section, new_figure, published, table
from fl.experiments.fashion_six import CLIENTS, NAMES, OPTIMIZERS
from fl.experiments.results import Document, arms_by_name
from fl.formatting import format_bytes, percent

FIGURE = "fashion-six"

_GOAL = 0.92
_COLORS = {"sgd": "#4c72b0", "adam": "#dd8452"}


def section(document: Document) -> Section:
    """Return this experiment's part of the page."""
    arms = arms_by_name(document)
    parts = [
        "Fashion-MNIST's 60,000 training images are dealt out to six clients, 10,000 each (IID); all are tested on "
        "the same 10,000. In the federated runs all six take part in each round, with one local epoch. A client alone, "
        "and all data centrally, train in the same way without averaging, a round being an epoch with a new optimizer; "
        "they have ten rounds, so the federated runs with fifty can pass them. *Before averaging* is a client's own "
        "model in the last federated round. The model is `cnn3-mirror`, batches have 25 images, the local learning "
        "rate falls by round, SGD has weight decay, and the server adds momentum (FedAvgM). SGD's learning rate and "
        "weight decay are the best of three by the test accuracy of the plain run, which flatters the last tenths of a "
        "point.",
        _table_of_arms(arms),
        _findings(arms),
    ]
    figures = {}
    if any(f"federated-{optimizer}" in arms for optimizer in OPTIMIZERS):
        parts.append(
            f"![test accuracy by round, and of a client alone and of all data centrally](experiments/{FIGURE}.png)"
        )
        figures[FIGURE] = _figure(arms)
    return Section("\n\n".join(part for part in parts if part), figures)


def _table_of_arms(arms: dict[str, dict[str, Any]]) -> str:
    names = (
        ("federated-sgd", published(0.89)),
        ("federated-sgd-plain", ""),
        ("federated-adam", published(0.8740)),
        ("central-sgd", ""),
        ("central-adam", published(0.84, about=True)),
    )
    rows = []
    for name, source in names:
        if arm := arms.get(name):
            rows.append(
                [
                    arm["title"],
                    str(arm["rounds"]),
                    percent(arm["accuracy"]),
                    percent(arm["best_accuracy"]),
                    percent(arm["train_accuracy"]),
                    source,
                    f"{arm['seconds_per_round']:.1f}",
                    format_bytes((arm["bytes_up"] + arm["bytes_down"]) / arm["rounds"]) if "federated" in name else "",
                ]
            )
    for optimizer in OPTIMIZERS:
        if alone := _alone(arms, optimizer):
            accuracies = [arm["accuracy"] for arm in alone]
            rows.append(
                [
                    f"a client alone, {NAMES[optimizer]}",
                    str(alone[0]["rounds"]),
                    _range(accuracies),
                    percent(max(arm["best_accuracy"] for arm in alone)),
                    _range([arm["train_accuracy"] for arm in alone]),
                    "78.9% to 81.8%" if optimizer == "adam" else "",
                    f"{mean(arm['seconds_per_round'] for arm in alone):.1f}",
                    "",
                ]
            )
    for optimizer in OPTIMIZERS:
        if clients := arms.get(f"federated-{optimizer}", {}).get("clients"):
            tests, trainings = ([one[key] for one in clients] for key in ("test_accuracy", "train_accuracy"))
            name = f"before averaging, {NAMES[optimizer]}"
            rows.append([name, "", _range(tests), "", _range(trainings), "", "", ""])
    head = ["", "rounds", "test", "best round", "training", "source's test", "seconds a round", "bytes a round"]
    return table(head, rows)


def _findings(arms: dict[str, dict[str, Any]]) -> str:
    found = []
    secure, plain = arms.get("federated-sgd"), arms.get("federated-sgd-plain")
    if secure:
        reached = "reaches" if secure["accuracy"] >= _GOAL else "does not reach"
        found.append(f"Federated with SGD {reached} the goal of {percent(_GOAL)}: {percent(secure['accuracy'])}.")
    if secure and plain:
        points = 100 * (secure["accuracy"] - plain["accuracy"])
        found.append(
            f"Secure minus plain: {points:+.2f} points (goal: at most 0.2); training amplifies the quantization of the "
            "updates."
        )
    return " ".join(found)


def _range(accuracies: list[float]) -> str:
    return f"{percent(min(accuracies))} to {percent(max(accuracies))}"


def _alone(arms: dict[str, dict[str, Any]], optimizer: str) -> list[dict[str, Any]]:
    """Return the results of all clients alone; empty unless all have finished."""
    names = [f"alone-{optimizer}-{client}" for client in range(CLIENTS)]
    return [arms[name] for name in names] if arms.keys() >= set(names) else []


def _figure(arms: dict[str, dict[str, Any]]) -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    figure.suptitle("Six clients on Fashion-MNIST: test accuracy by communication round")
    for optimizer in OPTIMIZERS:
        name, color = NAMES[optimizer], _COLORS[optimizer]
        for arm_name, style, width in (
            (f"federated-{optimizer}", "-", 2.0),
            (f"federated-{optimizer}-plain", ":", 2.0),
        ):
            if arm := arms.get(arm_name):
                accuracies = [100 * value for value in arm["by_round"]["accuracy"]]
                label = f"{arm['title']}: {accuracies[-1]:.2f}%"
                shade = "black" if style == ":" else color
                axes.plot(range(1, len(accuracies) + 1), accuracies, style, color=shade, linewidth=width, label=label)
        if central := arms.get(f"central-{optimizer}"):
            level = 100 * central["accuracy"]
            label = f"all data centrally, {name}, {central['rounds']} epochs: {level:.2f}%"
            axes.axhline(level, color=color, linestyle="--", label=label)
        if alone := _alone(arms, optimizer):
            levels = [100 * arm["accuracy"] for arm in alone]
            label = f"clients alone, {name}: {min(levels):.2f}% to {max(levels):.2f}%"
            axes.axhspan(min(levels), max(levels), color=color, alpha=0.25, label=label)
    axes.set_xlabel("communication round")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    return figure
