"""The figures on writers: the distribution of gains, and inclusion under dropouts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.section import new_figure
from fl.experiments.writers.arms import DROPOUT_MODELS, METHODS
from fl.experiments.writers.training import SPEED_GROUPS

_COLORS = {"head": "#55a868", "full": "#4c72b0", "proximal": "#64b5cd", "ditto": "#dd8452", "alone": "#8c8c8c"}
_RUN_COLORS = {"independent": "#4c72b0", "slow": "#c44e52"}

# Losses differ by hundredths for most writers and by units for a few: linear up to here, logarithmic beyond.
_LINEAR_UP_TO = 0.02

Arms = dict[str, dict[str, Any]]


def gains_figure(personal: Arms, title: str) -> Figure:
    """Draw the percentiles of the writers' gains: in accuracy as curves, in loss as points."""
    figure = new_figure(width=12, height=5.2)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for method, arm in personal.items():
        label = f"{METHODS[method][0]}: mean {100 * arm['summary']['accuracy_gain']['mean']:+.2f}"
        gains = arm["accuracy_gains"]
        left.plot(range(len(gains)), gains, color=_COLORS[method], label=label, drawstyle="steps-mid")
    left.axhline(0, color="black", linewidth=0.8)
    left.set_title("accuracy on the writer's held-out images")
    left.set_xlabel("writers, sorted by their gain (percent of all)")
    left.set_ylabel("personal minus global (points)")
    left.set_yscale("symlog", linthresh=10)
    ticks = [-50, -20, -10, -5, 0, 5, 10, 20, 50]
    left.set_yticks(ticks, ["0" if tick == 0 else f"{tick:+d}" for tick in ticks])
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend(title="gain in points", fontsize="small")
    _losses(right, personal)
    return figure


def _losses(axes: Axes, personal: Arms) -> None:
    for place, (method, arm) in enumerate(personal.items()):
        gains = np.array(arm["loss_gains"])
        # Spread the points by a fixed rule, so that the same results give the same picture.
        spread = 0.6 * ((np.arange(len(gains)) * 0.618034) % 1 - 0.5)
        axes.plot(gains, place + spread, ".", color=_COLORS[method], markersize=4, alpha=0.6)
        p10, median, p90 = (arm["summary"]["loss_gain"][key] for key in ("p10", "median", "p90"))
        axes.plot([p10, p90], [place, place], color="black", linewidth=2, solid_capstyle="butt")
        axes.plot([median], [place], "D", color="black", markersize=6)
        axes.text(median, place - 0.36, f"{median:+.4f}", ha="center", va="bottom", fontsize="small")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=_LINEAR_UP_TO)
    ticks = [sign * size for size in (0.01, 0.1, 1) for sign in (-1, 1)]
    axes.set_xticks([0, *ticks], ["0", *(f"{tick:+g}" for tick in ticks)])
    axes.minorticks_off()
    axes.set_yticks(range(len(personal)), [METHODS[method][0] for method in personal])
    axes.set_ylim(len(personal) - 0.4, -0.6)
    axes.set_title("cross-entropy on the writer's held-out images")
    axes.set_xlabel(
        "global minus personal (nats; right of 0 is better)\npoints: percentiles of the writers; bar: 10th to 90th"
    )
    axes.grid(axis="x", alpha=0.3)


def dropouts_figure(trained: Arms) -> Figure:
    """Draw the share of rounds by speed, and the model's accuracy by round."""
    figure = new_figure(width=12, height=4.5)
    figure.suptitle("Dropouts that strike anyone, and dropouts that strike the slow")
    left, right = figure.subplots(1, 2)
    places = np.arange(SPEED_GROUPS)
    for number, (name, arm) in enumerate(trained.items()):
        shares = [100 * group["included"] for group in arm["by_speed"]]
        offset = 0.4 * (number - (len(trained) - 1) / 2)
        bars = left.bar(places + offset, shares, 0.38, color=_RUN_COLORS[name], label=DROPOUT_MODELS[name])
        left.bar_label(bars, fmt="%.0f%%", fontsize="small")
        accuracies = [100 * accuracy for accuracy in arm["by_round"]["accuracy"]]
        label = f"{DROPOUT_MODELS[name]}: {accuracies[-1]:.2f}%"
        right.plot(range(1, len(accuracies) + 1), accuracies, color=_RUN_COLORS[name], label=label)
    left.set_xticks(places, ["fastest\nfifth", "second", "third", "fourth", "slowest\nfifth"])
    left.set_ylabel("rounds that included the writer (%)")
    left.set_title("who is heard")
    # Room for the legend above the bars.
    left.set_ylim(0, 1.2 * left.get_ylim()[1])
    left.legend(loc="upper right", ncols=2)
    right.set_xlabel("communication round")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel("test accuracy, new writers (%)")
    right.set_title("the global model")
    right.grid(alpha=0.3)
    right.legend(title="last round", loc="lower right")
    return figure
