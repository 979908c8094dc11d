"""Draw the figures of docs/benchmarks.md by matplotlib from a results file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks import formatting
from benchmarks.results import Entry, key_bytes, named, points, reached, vector_bytes

BLUE, ORANGE, GREEN, RED, GREY = "#3b82c4", "#e08a1e", "#2a9d6f", "#d1495b", "#8a8f98"
INK = "#1f2328"

# From this many clients on, the planner's degrees follow the logarithm; below, a client's neighbours are a large part
# of all clients, which lowers the risk.
LARGE = 1000

_STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.titlesize": "large",
    "grid.alpha": 0.4,
    "grid.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": "small",
}

_BAR_INCHES = 0.32
_COLORS = {True: GREEN, False: RED, None: BLUE}


def write(entries: list[Entry], folder: Path) -> set[str]:
    """Draw the entries' figures as PNG files, remove those of an earlier report, and return the names."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = set()
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        for name, draw in FIGURES.items():
            path = folder / f"{name}.png"
            figure = draw(entries)
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            # Leave matplotlib's version out, so that equal figures are equal files.
            figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})
            drawn.add(name)
    return drawn


@dataclass(frozen=True, slots=True)
class LogFit:
    """y = constant + slope ln n by least squares.

    Attributes:
        constant, slope: in y's unit.
        r_squared: the fraction of y's variance that the line explains.
        exponent: p of the power law y = c n^p through the same points: 0 is constant, 1 linear.
    """

    constant: float
    slope: float
    r_squared: float
    exponent: float

    def __str__(self) -> str:
        sign = "+" if self.slope >= 0 else "−"
        return f"{formatting.number(self.constant)} {sign} {formatting.number(abs(self.slope))} ln n"

    def at(self, n: Sequence[float]) -> list[float]:
        """Return the fitted values."""
        return [self.constant + self.slope * float(np.log(x)) for x in n]


def log_fit(n: Sequence[float], y: Sequence[float]) -> LogFit | None:
    """Fit at least three points with y > 0; None for fewer."""
    if len(set(n)) < 3:
        return None
    logs, values = np.log(np.array(n, dtype=float)), np.array(y, dtype=float)
    slope, constant = np.polyfit(logs, values, 1)
    residual = float(np.sum((values - constant - slope * logs) ** 2))
    spread = float(np.sum((values - values.mean()) ** 2))
    exponent, _ = np.polyfit(logs, np.log(values), 1)
    return LogFit(float(constant), float(slope), 1 - residual / spread if spread else 1.0, float(exponent))


def figure8(entries: list[Entry]) -> Figure | None:
    """Draw the speed-up of each row over the published time."""
    rows = [entry for entry in named(entries, "figure8", "client", "server") if entry.get("ratio")]
    if not rows:
        return None
    names = [
        f"{entry['name']}, {entry['params']['clients']:,} clients, {entry['params']['dropout']:.0%} vanish"
        for entry in rows
    ]
    figure = _new_figure("Figure 8 of Bonawitz et al. (2017), total times", 10, 1.3 + _BAR_INCHES * len(rows))
    axes = figure.subplots()
    _ratio_bars(axes, names, rows)
    axes.set_xlabel("times faster than published (one core each, other machine)")
    return figure


def peers(entries: list[Entry]) -> Figure | None:
    """Draw the seconds of secagg and of the peer side by side."""
    rows = named(entries, "peers")
    if not rows:
        return None
    figure = _new_figure("Peers on the same machine, same work", 10, 1.3 + 2 * _BAR_INCHES * len(rows))
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
    _plain_numbers(axes.xaxis)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("seconds")
    axes.legend(loc="lower right")
    return figure


def micro(entries: list[Entry]) -> Figure | None:
    """Draw all ratios to raw primitives, speeds and costs separately."""
    rows = [entry for entry in named(entries, "micro") if entry.get("ratio")]
    kinds = [
        ([entry for entry in rows if entry["ratio"]["higher_is_better"] is higher], text)
        for higher, text in (
            (True, "speed over the reference's, more is better"),
            (False, "time over the reference's, less is better"),
        )
    ]
    kinds = [(shown, text) for shown, text in kinds if shown]
    if not kinds:
        return None
    heights = [len(shown) + 2.5 for shown, _ in kinds]
    figure = _new_figure("Pieces of the library beside the raw primitives under them", 10, 0.6 + 0.27 * sum(heights))
    panels = figure.subplots(len(kinds), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (shown, text) in zip(panels, kinds, strict=True):
        _ratio_bars(axes, [_micro_name(entry) for entry in shown], shown, font_size="small")
        axes.set_xlabel(text)
    return figure


def _ratio_bars(axes: Axes, names: list[str], entries: list[Entry], font_size: str = "medium") -> None:
    """Draw a bar for each entry with its goal as a stroke; use a log scale if the ratios span more than a decade."""
    values = [entry["ratio"]["value"] for entry in entries]
    goals = [entry["ratio"]["goal"] for entry in entries]
    known = [*values, *(goal for goal in goals if goal is not None)]
    foot = 0.0
    if max(known) > 10 * min(known):
        # On a log scale bars need a start: a power of ten below all of them.
        foot = 10.0 ** floor(log10(min(known)) - 1e-9)
        axes.set_xscale("log")
    places = range(len(entries))
    colors = [_COLORS[reached(entry)] for entry in entries]
    axes.barh(places, [value - foot for value in values], 0.7, left=foot, color=colors)
    for place, value, goal in zip(places, values, goals, strict=True):
        axes.text(max(value, goal or 0), place, f"  {formatting.factor(value)}", va="center", fontsize="small")
        if goal is not None:
            axes.plot([goal, goal], [place - 0.45, place + 0.45], color=INK)
    axes.set_yticks(list(places), names, fontsize=font_size)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.set_xlim(foot, max(known) * (4 if foot else 1.3))
    _plain_numbers(axes.xaxis)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    _legend(axes, {reached(entry) for entry in entries})


def _legend(axes: Axes, verdicts: set[bool | None]) -> None:
    """Explain the colours and strokes that occur."""
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


def scaling_clients(entries: list[Entry]) -> Figure | None:
    """Draw the whole session above, and one client's part of it below, over the number of clients."""
    curve = points(entries, "clients")
    if not curve:
        return None
    length = curve[0]["params"]["length"]
    figure = _new_figure(f"More clients: sparse graph, {length:,} values of 16 bits, 5% vanish", 13, 7.4)
    (total, memory, neighbours), (time, size, server) = figure.subplots(2, 3)
    clients = [entry["params"]["clients"] for entry in curve]
    _line(total, clients, [entry["seconds"]["median"] for entry in curve], BLUE, "everybody, in one process")
    _line(total, clients, [entry["server_seconds"] for entry in curve], ORANGE, "the server alone")
    _finish(total, "Time of a session", "clients", "seconds", log_y=True)
    _line(memory, clients, [entry["peak_rss_bytes"] / 1e6 for entry in curve], RED, "all clients and the server")
    _finish(memory, "Peak memory of the process", "clients", "MB", log_y=True)
    planned = [point for entry in named(entries, "scaling", "degree") for point in entry["curve"]]
    _neighbours(neighbours, clients, [entry["degree"] for entry in curve], planned)
    _finish(neighbours, "Neighbours of a client", "clients", "neighbours")

    _fitted(time, clients, [1000 * entry["client_seconds"] for entry in curve], GREEN, "all rounds")
    _finish(time, "One client's time", "clients", "milliseconds")
    _fitted(size, clients, [key_bytes(entry) / 1000 for entry in curve], GREEN, "keys, shares, lists")
    _line(size, clients, [vector_bytes(entry) / 1000 for entry in curve], GREY, "its masked vector")
    _finish(size, "One client's bytes, up and down", "clients", "kilobytes")
    per_client = [1000 * entry["server_seconds"] / entry["params"]["clients"] for entry in curve]
    _fitted(server, clients, per_client, ORANGE, "all rounds, recovery included")
    _finish(server, "The server's time, per client", "clients", "milliseconds")
    return figure


def scaling_length(entries: list[Entry]) -> Figure | None:
    """Draw time and memory over the vector's length."""
    curve = points(entries, "length")
    if not curve:
        return None
    lengths = [entry["params"]["length"] for entry in curve]
    clients = curve[0]["params"]["clients"]
    figure = _new_figure(f"Longer vectors: complete graph, {clients} clients, 16 bits, 5% vanish", 11, 4)
    times, memory = figure.subplots(1, 2)
    _line(times, lengths, [entry["seconds"]["median"] for entry in curve], BLUE, "everybody, in one process")
    _line(times, lengths, [entry["server_seconds"] for entry in curve], ORANGE, "the server alone")
    _line(times, lengths, [entry["client_seconds"] for entry in curve], GREEN, "one client")
    _finish(times, "Time of a session", "values in a vector", "seconds", log_y=True)
    _line(memory, lengths, [entry["peak_rss_bytes"] / 1e6 for entry in curve], RED, "all clients and the server")
    _line(memory, lengths, [8 * length / 1e6 for length in lengths], GREY, "one vector of 64-bit words", style="--")
    _finish(memory, "Peak memory of the process", "values in a vector", "MB", log_y=True)
    return figure


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, name: str, style: str = "-") -> None:
    axes.plot(x, y, color=color, marker="o" if style == "-" else "", markersize=5, linestyle=style, label=name)


def _fitted(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, name: str) -> None:
    """Draw points, and the line a + b ln n through them."""
    axes.plot(x, y, color=color, marker="o", linestyle="none", label=name)
    _fit_line(axes, x, y, color)


def _fit_line(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, note: str = "") -> None:
    if fit := log_fit(x, y):
        axes.plot(x, fit.at(x), color=color, linestyle="--", linewidth=1.2, label=f"{fit}{note}")


def _neighbours(axes: Axes, clients: Sequence[int], degrees: Sequence[int], planned: list[dict[str, int]]) -> None:
    """Draw the degrees of the runs and of the planner, with a line fitted from `LARGE` clients on."""
    if planned:
        axes.plot(
            [point["clients"] for point in planned],
            [point["degree"] for point in planned],
            color=GREY,
            marker=".",
            label="as planned",
        )
        large = [point for point in planned if point["clients"] >= LARGE]
        many, most = [point["clients"] for point in large], [point["degree"] for point in large]
        _fit_line(axes, many, most, GREEN, f" from {LARGE:,}")
    axes.plot(clients, degrees, color=BLUE, marker="o", linestyle="none", label="in these runs")


def _finish(axes: Axes, title: str, x: str, y: str, *, log_y: bool = False) -> None:
    """Set scales and labels, and leave room for the legend above the curves."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(which="major")
    axes.set_xscale("log")
    _ticks(axes.xaxis, (1.0,))
    low, high = axes.get_ylim()
    if log_y:
        axes.set_yscale("log")
        low, high = axes.dataLim.ymin, axes.dataLim.ymax
        axes.set_ylim(low / 1.6, high * 1.6 * (high / low) ** 0.35)
        _ticks(axes.yaxis, (1.0, 2.0, 5.0) if high < 100 * low else (1.0,))
    else:
        axes.set_ylim(0, 1.35 * high)
    axes.legend(loc="upper left")


def _ticks(axis: Axis, multiples: tuple[float, ...]) -> None:
    """Set ticks at these multiples of powers of ten."""
    axis.set_major_locator(LogLocator(10, multiples))
    _plain_numbers(axis)


def _new_figure(title: str, width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure


def _plain_numbers(axis: Axis) -> None:
    """Write numbers out, not as powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    axis.set_minor_locator(NullLocator())


FIGURES: dict[str, Callable[[list[Entry]], Figure | None]] = {
    "figure8": figure8,
    "peers": peers,
    "scaling-clients": scaling_clients,
    "scaling-length": scaling_length,
    "micro": micro,
}
