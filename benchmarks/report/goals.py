"""Which goals are reached: from the data alone."""

from dataclasses import dataclass

from benchmarks import summary
from benchmarks.report import formatting
from benchmarks.results import Document, Entry


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal of one entry.

    Attributes:
        group, what: where it stands.
        measured, wanted: as text.
        reached: whether it is.
        distance: how far the measured value is on the wrong side of the goal, as a fraction of it; 0 if reached.
    """

    group: str
    what: str
    measured: str
    wanted: str
    reached: bool
    distance: float


def goals(document: Document) -> list[Goal]:
    """All goals, in the file's order."""
    return [goal for entry in document["results"] for goal in of_entry(entry)]


def of_entry(entry: Entry) -> list[Goal]:
    """The goal of an entry's ratio, and its limits: ``{"limits": {key: {"value", "most"}}}``."""
    what = f"{entry['name'].replace('_', ' ')} ({formatting.params(entry['params'])})"
    found = []
    reached = summary.reached(entry)
    if reached is not None:
        ratio = entry["ratio"]
        sign = "≥" if ratio["higher_is_better"] else "≤"
        found.append(
            Goal(
                entry["group"],
                f"{what}: {ratio['of']}",
                formatting.number(ratio["value"]),
                f"{sign} {ratio['goal']:g}",
                reached,
                _distance(ratio["value"], ratio["goal"], reached),
            )
        )
    for key, limit in entry.get("limits", {}).items():
        within = limit["value"] <= limit["most"]
        found.append(
            Goal(
                entry["group"],
                f"{what}: {'time' if key == 'seconds' else formatting.heading(key)}",
                formatting.value(key, limit["value"]),
                f"≤ {formatting.value(key, limit['most'])}",
                within,
                _distance(limit["value"], limit["most"], within),
            )
        )
    return found


def _distance(measured: float, wanted: float, reached: bool) -> float:
    return 0.0 if reached or not wanted else abs(measured - wanted) / abs(wanted)
