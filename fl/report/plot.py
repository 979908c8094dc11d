"""Draw a run as pictures: a figure of its rounds, the final model's answers, single test images."""

import base64
import io
import math
from pathlib import Path
from typing import Final

import matplotlib
import matplotlib.image
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fl.config.run_config import RunConfig
from fl.report.rounds_view import client_layers
from fl.report.verdict import Verdict
from fl.runs.records import RoundRecord, main_figures, show_figure

MOST_NUMBERED: Final = 20
"""The cells of a confusion matrix of more classes have no room for numbers."""

_COLORS = {
    "stayed": "#4c72b0",
    "aborted": "#b3261e",
    "at-AdvertiseKeys": "#8d6a9f",
    "at-ShareKeys": "#c5a6d0",
    "at-MaskedInputCollection": "#dd8452",
    "at-ConsistencyCheck": "#e9b44c",
    "at-Unmasking": "#f2c14e",
}
_COLUMNS, _EACH = 4, 6
# Names of models and classes are the user's: a dollar sign in them is no formula.
_drawing = matplotlib.rc_context({"text.parse_math": False})


@_drawing
def save_plot(path: Path, config: RunConfig, records: list[RoundRecord]) -> None:
    """Write a PNG of at least one round: accuracy or loss above, clients below."""
    is_private = config.privacy.epsilon is not None
    figure = Figure(figsize=(9, 9 if is_private else 7), layout="constrained")
    upper, *between, lower = figure.subplots(
        2 + is_private, 1, sharex=True, height_ratios=(3, 1.5, 2) if is_private else (3, 2)
    )
    figure.suptitle(
        f"Federated {config.model} on {config.data.dataset}: {config.data.clients} clients, "
        f"{config.sample} a round, partition {config.partition}"
    )
    shown_first = next(iter(main_figures(records[-1])))
    scale = 100 if shown_first.endswith("accuracy") else 1
    for name, color, line in (("plain", "#999999", "--"), ("secure", _COLORS["stayed"], "-")):
        series = [record for record in records if record.aggregator == name]
        if series:
            values = [main_figures(record).get(shown_first) for record in series]
            shown = [math.nan if value is None else scale * value for value in values]
            label = f"{name}: {show_figure(shown_first, values[-1])}"
            upper.plot([one.round for one in series], shown, color=color, linestyle=line, label=label, marker=".")
    where = shown_first if shown_first.startswith("training ") else f"test {shown_first}"
    upper.set_ylabel(f"{where} (%)" if scale == 100 else where)
    upper.grid(alpha=0.3)
    upper.legend(title="aggregator, last round", loc="lower right")

    own = [record for record in records if record.aggregator == config.protocol.aggregator]
    for axes in between:
        axes.plot([one.round for one in own], [one.epsilon for one in own], color=_COLORS["stayed"], marker=".")
        axes.axhline(config.privacy.epsilon, color="#999999", linestyle="--", label="budget")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"epsilon spent,\nat delta {config.privacy.delta:g}")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    bottom = np.zeros(len(own))
    for layer in client_layers(own):
        if any(layer.values):
            rounds, color = [record.round for record in own], _COLORS[layer.style]
            lower.bar(rounds, layer.values, bottom=bottom, color=color, label=layer.name)
            bottom += layer.values
    lower.set_xlabel("communication round")
    lower.set_ylabel("clients")
    # Rounds of a private run may have more clients than the average.
    lower.set_ylim(0, max(config.sample, *bottom) * 1.05)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(path, dpi=120)


def data_url(pixels: npt.NDArray[np.float32]) -> str:
    """Return a PNG of float32 (H, W), gray, or (H, W, 3) in 0..1, pixel for pixel, as a data URL."""
    file = io.BytesIO()
    matplotlib.image.imsave(file, pixels, cmap="gray", vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@_drawing
def confusion_plot(verdict: Verdict) -> Figure:
    """Draw the confusion matrix: rows are the true classes, columns the model's answers."""
    figure = Figure(figsize=(7, 6.4), layout="constrained")
    axes = figure.subplots()
    confusion = verdict.confusion
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class", fraction=0.046)
    places = range(len(verdict.names))
    axes.set_xticks(places, verdict.names, rotation=90)
    axes.set_yticks(places, verdict.names)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title(f"{confusion.sum():,} test examples, {100 * verdict.accuracy:.2f}% right")
    if len(verdict.names) <= MOST_NUMBERED:
        for row in places:
            for column in places:
                if confusion[row, column]:
                    color = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color, size=8)
    return figure


@_drawing
def samples_plot(verdict: Verdict) -> Figure | None:
    """Draw test images that the model got wrong, then some that it got right; None if the examples are not images."""
    samples = [sample for sample in (*verdict.wrong[:_EACH], *verdict.right[:_EACH]) if sample.pixels is not None]
    if not samples:
        return None
    rows = -(-len(samples) // _COLUMNS)
    figure = Figure(figsize=(7, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, sample in zip(grid, samples, strict=False):
        axes.imshow(sample.pixels, cmap="gray", vmin=0, vmax=1)
        truth, answer = verdict.names[sample.truth], verdict.names[sample.answer]
        is_right = sample.truth == sample.answer
        title = truth if is_right else f"{truth}, taken for\n{answer}"
        axes.set_title(title, size=12, color="black" if is_right else "#b3261e")
    return figure
