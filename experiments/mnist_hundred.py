"""The page's part on a hundred clients: rounds to the target, compared with the published ones, and the curves."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.section import Section, new_figure, table
from fl.experiments.mnist_hundred import SETTINGS, HundredSetting
from fl.experiments.results import Document, arms_by_name
from fl.formatting import percent

FIGURE = "mnist-hundred"

_AVERAGING, _FAST = "#999999", "#4c72b0"


def section(document: Document) -> Section:
    """Return this experiment's part of the page."""
    arms = arms_by_name(document)
    rows = [row for setting in SETTINGS for row in _rows(setting, arms)]
    head = ["", "target", "published", "rounds", "ratio", "last", "best", "seconds a round"]
    parts = [
        "McMahan et al. (AISTATS 2017, tables 1 and 2): 100 clients with 600 images each, IID or in two shards sorted "
        "by digit. A round draws ten clients at random; batches have 10 images, the mean is weighted by examples, sums "
        "are secure. *Rounds* is the first round that reaches the target; the paper takes the round where a monotonic "
        "curve crosses it, with a learning rate tuned for each cell, and its CNN has 512 units, ours 128. Federated "
        "averaging has one learning rate; settings of the faster arms come from short trials on the same data.",
        table(head, rows) if rows else "",
        _settings(arms),
    ]
    figures = {}
    if rows:
        parts.append(f"![test accuracy by round in the four settings](experiments/{FIGURE}.png)")
        figures[FIGURE] = _figure(arms)
    return Section("\n\n".join(part for part in parts if part), figures)


def _rows(setting: HundredSetting, arms: dict[str, dict[str, Any]]) -> list[list[str]]:
    rows = []
    for name in (setting.name, f"{setting.name}-fast"):
        if arm := arms.get(name):
            reached = arm["reached"]
            rows.append(
                [
                    arm["title"],
                    percent(setting.target),
                    str(setting.published),
                    str(reached) if reached else f"not in {arm['rounds']}",
                    f"{reached / setting.published:.2f}" if reached else "",
                    percent(arm["accuracy"]),
                    percent(arm["best_accuracy"]),
                    f"{arm['seconds_per_round']:.2f}",
                ]
            )
    return rows


def _settings(arms: dict[str, dict[str, Any]]) -> str:
    """Return the settings of the faster arms, and which plain arms were stopped before the published rounds."""
    lines = [
        f"- {setting.title}, faster: {_options(setting)}." for setting in SETTINGS if f"{setting.name}-fast" in arms
    ]
    for setting in SETTINGS:
        arm = arms.get(setting.name)
        if arm and arm["reached"] is None and arm["rounds"] < setting.published:
            lines.append(
                f"- {setting.title}: federated averaging was stopped after {arm['rounds']} rounds, before the "
                f"published {setting.published}, so it does not check the paper's figure."
            )
    return "\n".join(lines)


def _options(setting: HundredSetting) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in setting.fast.items())


def _figure(arms: dict[str, dict[str, Any]]) -> Figure:
    figure = new_figure(height=7)
    figure.suptitle("A hundred clients on MNIST: test accuracy by communication round")
    for axes, setting in zip(figure.subplots(2, 2).flat, SETTINGS, strict=True):
        for name, color in ((setting.name, _AVERAGING), (f"{setting.name}-fast", _FAST)):
            if arm := arms.get(name):
                accuracies = [100 * value for value in arm["by_round"]["accuracy"]]
                label = "federated averaging" if name == setting.name else setting.why
                axes.plot(range(1, len(accuracies) + 1), accuracies, color=color, label=label)
        axes.axhline(100 * setting.target, color="#c44e52", linestyle="--", linewidth=1, label="target")
        axes.axvline(setting.published, color="#c44e52", linestyle=":", linewidth=1, label="published rounds")
        axes.set_title(setting.title, fontsize="medium")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("communication round")
        axes.set_ylabel("test accuracy (%)")
        axes.set_ylim(100 * setting.target - 12, 100)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    return figure
