"""How cost grows with the clients and with the vector."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from benchmarks.report.figures.style import BLUE, GREEN, GREY, ORANGE, RED, label, new_figure, plain_numbers
from benchmarks.report.fits import LARGE, log_fit
from benchmarks.report.load import named, points
from benchmarks.report.points import key_bytes, vector_bytes
from benchmarks.results import Document


def with_clients(document: Document) -> Figure | None:
    """The whole session above, one client's part of it below, over the number of clients."""
    curve = points(document, "clients")
    if not curve:
        return None
    length = curve[0]["params"]["length"]
    figure = new_figure(f"More clients: sparse graph, {length:,} values of 16 bits, 5% vanish", 13, 7.4)
    (total, memory, neighbours), (time, size, server) = figure.subplots(2, 3)
    clients = [entry["params"]["clients"] for entry in curve]
    _line(total, clients, [entry["seconds"]["median"] for entry in curve], BLUE, "everybody, in one process")
    _line(total, clients, [entry["server_seconds"] for entry in curve], ORANGE, "the server alone")
    _finish(total, "Time of a session", "clients", "seconds", log_y=True)
    _line(memory, clients, [entry["peak_rss_bytes"] / 1e6 for entry in curve], RED, "all clients and the server")
    _finish(memory, "Peak memory of the process", "clients", "MB", log_y=True)
    planned = [point for entry in named(document, "scaling", "degree") for point in entry["curve"]]
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


def with_length(document: Document) -> Figure | None:
    """Time and memory over the vector's length."""
    curve = points(document, "length")
    if not curve:
        return None
    lengths = [entry["params"]["length"] for entry in curve]
    clients = curve[0]["params"]["clients"]
    figure = new_figure(f"Longer vectors: complete graph, {clients} clients, 16 bits, 5% vanish", 11, 4)
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
    """Points, and the line a + b ln n through them."""
    axes.plot(x, y, color=color, marker="o", linestyle="none", label=name)
    _fit_line(axes, x, y, color)


def _fit_line(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, note: str = "") -> None:
    if fit := log_fit(x, y):
        axes.plot(x, fit.at(x), color=color, linestyle="--", linewidth=1.2, label=f"{fit}{note}")


def _neighbours(axes: Axes, clients: Sequence[int], degrees: Sequence[int], planned: list[dict[str, int]]) -> None:
    """The degrees of the runs, and the planner's; the line is through those where the sizes are no longer small."""
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
    """Scales, labels, and room for the legend above what is drawn."""
    label(axes, title, x, y)
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
    """Ticks at these multiples of powers of ten."""
    axis.set_major_locator(LogLocator(10, multiples))
    plain_numbers(axis)
