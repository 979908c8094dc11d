"""What a figure of the page is made of, whatever it shows."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

STYLES = 8
"""So many series can be told apart, by colour and by dashes."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A line of a figure's legend: the style's CSS class, what it stands for, a figure and a remark."""

    style: str
    name: str
    value: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A titled picture with its legend; `kind` is ``line`` or ``area``, how the legend shows a style."""

    title: str
    svg: Markup
    legend: tuple[LegendEntry, ...]
    kind: str
    caption: str = ""
