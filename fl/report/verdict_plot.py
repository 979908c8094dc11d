"""The verdict as matplotlib's figures, where pictures are wanted and not a page."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fl.report.verdict import Verdict

_MOST_NUMBERED = 20
_COLUMNS, _EACH = 4, 6


def confusion_plot(verdict: Verdict) -> Figure:
    """The confusion matrix: rows are classes as they are, columns what the model took them for."""
    figure = Figure(figsize=(7, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
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
    if len(verdict.names) <= _MOST_NUMBERED:
        for row in places:
            for column in places:
                if confusion[row, column]:
                    color = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color, size=8)
    return figure


def samples_plot(verdict: Verdict) -> Figure | None:
    """Test images that the model got wrong, then some that it got right; None if examples are no images."""
    samples = [sample for sample in (*verdict.wrong[:_EACH], *verdict.right[:_EACH]) if sample.pixels is not None]
    if not samples:
        return None
    rows = -(-len(samples) // _COLUMNS)
    figure = Figure(figsize=(7, 2.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, sample in zip(grid, samples, strict=False):
        axes.imshow(sample.pixels, cmap="gray", vmin=0, vmax=1)
        truth, answer = verdict.names[sample.truth], verdict.names[sample.answer]
        is_right = sample.truth == sample.answer
        title = truth if is_right else f"{truth}, taken for\n{answer}"
        axes.set_title(title, size=12, color="black" if is_right else "#b3261e", parse_math=False)
    return figure
