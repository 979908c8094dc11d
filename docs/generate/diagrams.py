"""Draw the pictures of docs/concepts.md and docs/architecture.md: `python docs/generate/diagrams.py`."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

DOCS = Path(__file__).resolve().parents[1]

INK, QUIET, BLUE, ORANGE, GREEN = "#1f2933", "#9aa5b1", "#2f6f9f", "#c8553d", "#3a7d44"

# Round, what clients send, what the server does with it.
ROUNDS = [
    ("1  AdvertiseKeys", "two public keys", "passes on everybody's keys"),
    ("2  ShareKeys", "encrypted shares of two seeds", "passes the shares on"),
    ("3  MaskedInputCollection", "input + masks", "adds up; says who survived"),
    ("4  Unmasking", "one share for each peer", "recovers seeds, removes masks"),
]

LAYERS = [
    (
        "fl",
        "federated learning on PyTorch",
        "commands, config, runs, learning, data, aggregation, engines, network, integrations",
        ORANGE,
    ),
    ("transport", "moves messages", "driver, framing, memory, durable (journals), tcp (TLS), certificates", BLUE),
    (
        "secagg",
        "the protocol: no sockets, files, clock or logging",
        "client, server, codec, planner; algebra, primitives",
        GREEN,
    ),
]

STEPS = ["bytes", "framing", "driver", "decode", "machine", "events", "encode", "bytes"]


def main() -> None:
    """Write both pictures into docs/."""
    draw_rounds().savefig(DOCS / "rounds.png", dpi=150, facecolor="white")
    draw_packages().savefig(DOCS / "packages.png", dpi=150, facecolor="white")


def draw_rounds() -> Figure:
    """Return the four rounds of a session with three clients, of which one vanishes after the second round."""
    figure = Figure(figsize=(12, 4.6))
    for column, (name, sent, answer) in enumerate(ROUNDS):
        axes = _panel(figure, (column / 4, 0, 1 / 4, 1), (0, 10), (0, 15))
        axes.text(5, 14.2, name, ha="center", fontsize=12, weight="bold", color=INK)
        _box(axes, (2.6, 10.9), (4.8, 1.9), "server", BLUE)
        for number in range(3):
            gone = number == 2 and column >= 2
            x = 2 + 3 * number
            color = QUIET if gone else GREEN
            _box(axes, (x - 1.15, 3.8), (2.3, 1.7), "gone" if gone else f"client {number}", color, dashed=gone)
            if not gone:
                _arrow(axes, (x - 0.25, 5.6), (4 + number - 0.2, 10.8), ORANGE)
                if column < 3:
                    _arrow(axes, (4 + number + 0.2, 10.8), (x + 0.25, 5.6), BLUE)
        axes.text(5, 2.5, "clients send: " + sent, ha="center", fontsize=9, color=ORANGE)
        axes.text(5, 1.3, "server: " + answer, ha="center", fontsize=9, color=BLUE)
        if column == 3:
            axes.text(5, 0.1, "result: the sum of inputs 0 and 1", ha="center", fontsize=9.5, weight="bold", color=INK)
        elif column < 3:
            axes.plot([10, 10], [0.2, 14.6], color="#d9dee3", linewidth=1)
    return figure


def draw_packages() -> Figure:
    """Return the three packages, one above the other, and the way of a message through them."""
    figure = Figure(figsize=(11, 5.4))
    axes = _panel(figure, (0, 0, 1, 1), (0, 22), (0, 10.8))
    for level, (name, idea, parts, color) in enumerate(LAYERS):
        y = 8.6 - 2.7 * level
        _box(axes, (0.6, y), (20.8, 1.9), "", color)
        axes.text(1.1, y + 1.2, name, fontsize=14, weight="bold", family="monospace", color=color, va="center")
        axes.text(4.6, y + 1.2, idea, fontsize=11.5, color=INK, va="center")
        axes.text(4.6, y + 0.55, parts, fontsize=10, color="#52606d", va="center")
        if level < 2:
            _arrow(axes, (11, y - 0.05), (11, y - 0.75), INK)
            axes.text(11.3, y - 0.42, "imports", fontsize=9.5, color="#52606d", va="center")
    axes.text(0.6, 2.0, "How a message travels", fontsize=11.5, weight="bold", color=INK)
    width = 20.8 / len(STEPS)
    for place, step in enumerate(STEPS):
        color = GREEN if 3 <= place <= 6 else BLUE
        _box(axes, (0.6 + place * width + 0.1, 0.5), (width - 0.7, 1.0), step, color, fontsize=10)
        if place:
            _arrow(axes, (0.6 + place * width - 0.55, 1.0), (0.6 + place * width + 0.05, 1.0), INK)
    return figure


def _panel(
    figure: Figure, place: tuple[float, float, float, float], x: tuple[float, float], y: tuple[float, float]
) -> Axes:
    axes = figure.add_axes(place)
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    axes.axis("off")
    return axes


def _box(
    axes: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    text: str,
    color: str,
    *,
    dashed: bool = False,
    fontsize: float = 10.5,
) -> None:
    line = "--" if dashed else "-"
    shape = "round,pad=0,rounding_size=0.25"
    axes.add_patch(
        FancyBboxPatch(
            corner, *size, boxstyle=shape, edgecolor=color, facecolor=color + "18", linestyle=line, linewidth=1.4
        )
    )
    middle = (corner[0] + size[0] / 2, corner[1] + size[1] / 2)
    axes.text(*middle, text, ha="center", va="center", fontsize=fontsize, color=color if dashed else INK)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, linewidth=1.2))


if __name__ == "__main__":
    main()
