"""The page's part on private users: accuracy by method and epsilon, beside the bytes of a client; and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.section import Section, new_figure, table
from fl.experiments.private_users import DATASETS, EPSILONS, METHODS, SEEDS, arm_name
from fl.experiments.results import Document, arms_by_name, read_document

FIGURE = "private-users"
RESULTS = Path(__file__).parent / "results" / "private-users.json"

_NONE = "none"
_SHOWN = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
_NAMES = {
    _NONE: "no noise, no clip",
    "central": "central Gaussian",
    "skellam-16": "Skellam, 16 bits",
    "skellam-14": "Skellam, 14 bits",
    "skellam-12": "Skellam, 12 bits",
    "local": "local Gaussian",
}
_COLORS = {
    _NONE: "#999999",
    "central": "#000000",
    "skellam-16": "#4c72b0",
    "skellam-14": "#55a868",
    "skellam-12": "#dd8452",
    "local": "#c44e52",
}

Arms = Sequence[dict[str, Any]]


def section(document: Document) -> Section:
    """Return this experiment's part of the page."""
    parts = [
        "3,000 users with 20 images each, IID; each takes part in a round with probability 1/30, so that a round has a "
        "hundred on average. A logistic model of 7,850 weights, one local epoch in batches of 10, server momentum 0.9, "
        "60 rounds, L2 clip 0.1, delta 1/3,000. Learning rate, clip and rounds were chosen on MNIST and Fashion-MNIST "
        "with another seed, without noise and at epsilon 3. *Central* adds Gaussian noise to the plain sum of clipped "
        "updates; *Skellam* is the mechanism of [Privacy](privacy.md), without dropouts; *local* adds to each update "
        "the noise that the sum has otherwise. All three are accounted alike.",
        accuracies(document),
        f"![test accuracy by round, for each data set and epsilon](experiments/{FIGURE}.png)",
        "Masks cancel, so the arms add up the encoded vectors modulo 2^b without them; a test compares the mean with "
        "that of a session, bit for bit. The gain by sampling does not hold against somebody who sees single updates, "
        "as local noise assumes: it flatters the local arms.",
    ]
    if not document["arms"]:
        return Section(parts[0])
    return Section("\n\n".join(parts), {FIGURE: _figure(document)})


def block() -> str:
    """Return the table of the committed results, between empty lines, for `cog` to put into a page."""
    return f"\n{accuracies(read_document(RESULTS))}\n\n"


def accuracies(document: Document) -> str:
    """Return the table: for each data set and method, the mean and the range of the seeds' last accuracies."""
    head = ["data set, method", *(f"epsilon {epsilon}" for epsilon in EPSILONS), "noise at epsilon 3", "bytes"]
    rows = []
    for dataset in DATASETS:
        for method in (_NONE, *(name for name, _, _ in METHODS)):
            cells = [_accuracy(found(document, dataset, method, epsilon)) for epsilon in EPSILONS]
            if not any(cells):
                continue
            any_arms = found(document, dataset, method, 3) or found(document, dataset, method, 10)
            noise = next((f"{arm['noise_multiplier']:.3f}" for arm in any_arms if "noise_multiplier" in arm), "")
            size = next((f"{arm['client_bytes']:,}" for arm in any_arms if "client_bytes" in arm), "")
            name = f"{_SHOWN[dataset]}: {_NAMES[method]}"
            rows.append([name, *([cells[0], "", ""] if method == _NONE else cells), noise, size])
    explained = (
        f"Test accuracy in percent after the last round: the mean of {SEEDS} seeds, and the least and the largest. "
        "Noise is the standard deviation of the sum's noise over the clip. Bytes are of a client's vector: without "
        "noise, of the ordinary encoding of 24 bits, the default; central and local, of float32."
    )
    return f"{table(head, rows)}\n\n{explained}{_gaps(document)}"


def found(document: Document, dataset: str, method: str, epsilon: int) -> Arms:
    """Return the results of a method's arms that have finished, one for each seed."""
    arms = arms_by_name(document)
    seeds = range(document["seed"], document["seed"] + SEEDS)
    names = (arm_name(dataset, method, None if method == _NONE else epsilon, seed) for seed in seeds)
    return [arms[name] for name in names if name in arms]


def _accuracy(arms: Arms) -> str:
    if refused := next((arm["refused"] for arm in arms if "refused" in arm), None):
        return f"refused: {'; '.join(refused)}"
    values = [100 * arm["accuracy"] for arm in arms]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    missing = "" if len(values) == SEEDS else f", {len(values)} seeds"
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f}{missing})"


def _gaps(document: Document) -> str:
    """Return the difference of Skellam at 16 bits to central noise, on the seeds that both have."""
    gaps = []
    for dataset in DATASETS:
        for epsilon in EPSILONS:
            both = [found(document, dataset, method, epsilon) for method in ("central", "skellam-16")]
            central, distributed = (
                {arm["settings"]["config"]["seed"]: arm["accuracy"] for arm in one if "accuracy" in arm} for one in both
            )
            if common := central.keys() & distributed.keys():
                gap = 100 * mean(distributed[seed] - central[seed] for seed in common)
                gaps.append(f"{gap:+.2f} on {_SHOWN[dataset]} at epsilon {epsilon}")
    if not gaps:
        return ""
    return f"\n\nSkellam noise at 16 bits less central noise, in points, on the same seeds: {', '.join(gaps)}."


def _figure(document: Document) -> Figure:
    figure = new_figure(height=6.4)
    figure.suptitle("Test accuracy by round: mean and range of the seeds")
    grid = figure.subplots(len(DATASETS), len(EPSILONS), sharex=True, sharey="row", squeeze=False)
    for dataset, panels in zip(DATASETS, grid, strict=True):
        for epsilon, axes in zip(EPSILONS, panels, strict=True):
            for method in (_NONE, *(name for name, _, _ in METHODS)):
                _draw(axes, method, found(document, dataset, method, epsilon))
            axes.set_title(f"{_SHOWN[dataset]}, epsilon {epsilon}", fontsize="medium")
            axes.grid(alpha=0.3)
            axes.set_ylim(bottom=40)
        panels[0].set_ylabel("test accuracy (%)")
    for axes in grid[-1]:
        axes.set_xlabel("round")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _draw(axes: Axes, method: str, arms: Arms) -> None:
    curves = [[100 * value for value in arm["by_round"]["accuracy"]] for arm in arms if "by_round" in arm]
    if not curves:
        return
    by_round = list(zip(*curves, strict=False))
    rounds = range(1, len(by_round) + 1)
    axes.plot(rounds, [mean(values) for values in by_round], color=_COLORS[method], label=_NAMES[method], linewidth=1)
    axes.fill_between(
        rounds, [min(v) for v in by_round], [max(v) for v in by_round], color=_COLORS[method], alpha=0.15, lw=0
    )
