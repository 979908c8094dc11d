"""Bars: secagg beside the paper, its peers and the raw primitives."""

from math import floor, log10

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks import summary
from benchmarks.report import formatting
from benchmarks.report.figures.style import BLUE, GREEN, GREY, INK, RED, new_figure, plain_numbers
from benchmarks.report.load import named, of_group
from benchmarks.results import Document, Entry

_BAR_INCHES = 0.32
_COLORS = {True: GREEN, False: RED, None: BLUE}


def figure8(document: Document) -> Figure | None:
    """How many times faster than published, row by row."""
    rows = [entry for entry in named(document, "figure8", "client", "server") if entry.get("ratio")]
    if not rows:
        return None
    names = [
        f"{entry['name']}, {entry['params']['clients']:,} clients, {entry['params']['dropout']:.0%} vanish"
        for entry in rows
    ]
    figure = new_figure("Figure 8 of Bonawitz et al. (2017), total times", 10, 1.3 + _BAR_INCHES * len(rows))
    axes = figure.subplots()
    _ratio_bars(axes, names, rows)
    axes.set_xlabel("times faster than published (one core each, other machine)")
    return figure


def peers(document: Document) -> Figure | None:
    """Seconds of secagg and of the peer, side by side."""
    rows = of_group(document, "peers")
    if not rows:
        return None
    figure = new_figure("Peers on the same machine, same work", 10, 1.3 + 2 * _BAR_INCHES * len(rows))
    axes = figure.subplots()
    places = list(range(len(rows)))
    theirs, ours = [entry["peer_seconds"] for entry in rows], [entry["secagg_seconds"] for entry in rows]
    axes.barh([place - 0.2 for place in places], theirs, 0.38, color=GREY, label="the peer")
    axes.barh([place + 0.2 for place in places], ours, 0.38, color=BLUE, label="secagg")
    for place, entry in zip(places, rows, strict=True):
        text = f" {formatting.duration(entry['peer_seconds'])} = {formatting.factor(entry['ratio']['value'])} secagg's"
        axes.text(entry["peer_seconds"], place - 0.2, text, va="center", fontsize="small")
        text = f" {formatting.duration(entry['secagg_seconds'])}"
        axes.text(entry["secagg_seconds"], place + 0.2, text, va="center", fontsize="small")
    axes.set_yticks(places, [_peer_name(entry) for entry in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(ours) / 2, max(theirs) * 15)
    plain_numbers(axes.xaxis)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("seconds")
    axes.legend(loc="lower right")
    return figure


def micro(document: Document) -> Figure | None:
    """Every ratio to a raw primitive; what is to be large and what is to be small apart."""
    rows = [entry for entry in of_group(document, "micro") if entry.get("ratio")]
    kinds = [
        ([entry for entry in rows if entry["ratio"]["higher_is_better"] is higher], text)
        for higher, text in (
            (True, "speed over the reference's, more is better"),
            (False, "time over the reference's, less is better"),
        )
    ]
    kinds = [(entries, text) for entries, text in kinds if entries]
    if not kinds:
        return None
    heights = [len(entries) + 2.5 for entries, _ in kinds]
    figure = new_figure("Pieces of the library beside the raw primitives under them", 10, 0.6 + 0.27 * sum(heights))
    panels = figure.subplots(len(kinds), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (entries, text) in zip(panels, kinds, strict=True):
        _ratio_bars(axes, [_micro_name(entry) for entry in entries], entries, font_size="small")
        axes.set_xlabel(text)
    return figure


def _ratio_bars(axes: Axes, names: list[str], entries: list[Entry], font_size: str = "medium") -> None:
    """A bar an entry with its goal as a stroke; on a logarithmic axis where the ratios span more than a decade."""
    values = [entry["ratio"]["value"] for entry in entries]
    goals = [entry["ratio"]["goal"] for entry in entries]
    known = [*values, *(goal for goal in goals if goal is not None)]
    foot = 0.0
    if max(known) > 10 * min(known):
        # Bars need a foot where there is no zero: a power of ten below all of them.
        foot = 10.0 ** floor(log10(min(known)) - 1e-9)
        axes.set_xscale("log")
    places = range(len(entries))
    colors = [_COLORS[summary.reached(entry)] for entry in entries]
    axes.barh(places, [value - foot for value in values], 0.7, left=foot, color=colors)
    for place, value, goal in zip(places, values, goals, strict=True):
        axes.text(max(value, goal or 0), place, f"  {formatting.factor(value)}", va="center", fontsize="small")
        if goal is not None:
            axes.plot([goal, goal], [place - 0.45, place + 0.45], color=INK)
    axes.set_yticks(list(places), names, fontsize=font_size)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.set_xlim(foot, max(known) * (4 if foot else 1.3))
    plain_numbers(axes.xaxis)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    _legend(axes, {summary.reached(entry) for entry in entries})


def _legend(axes: Axes, verdicts: set[bool | None]) -> None:
    """What the colours and strokes say, of those that occur."""
    if verdicts == {None}:
        return
    texts = {True: "goal reached", False: "goal missed", None: "no goal"}
    handles: list[Artist] = [Patch(color=_COLORS[key], label=text) for key, text in texts.items() if key in verdicts]
    handles.append(Line2D([], [], color=INK, label="goal"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1))


def _peer_name(entry: Entry) -> str:
    work = entry["name"].split("_", 1)[-1].replace("_", " ")
    return f"{entry['peer']} {entry['peer_version']}\n{work}, {entry['params']['clients']} clients"


def _micro_name(entry: Entry) -> str:
    params = formatting.params(entry["params"])
    return f"{entry['name'].replace('_', ' ')} {f'({params})' if params else ''}".strip()
