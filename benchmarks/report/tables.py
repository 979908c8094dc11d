"""Entries as tables of text."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks import summary
from benchmarks.report import formatting
from benchmarks.results import Entry

_SHOWN_ELSEWHERE = {"group", "name", "params", "seconds", "ratio", "note", "from", "limits"}

Column = tuple[str, Callable[[Entry], str]]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        title: above it; may be empty.
        columns: the headings.
        rows: of as many cells each.
        notes: below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def holds_words(self, column: int) -> bool:
        """Whether a column is of words, not of figures."""
        cells = [row[column].lstrip("≥≤− ") for row in self.rows]
        return column == 0 or not any(cell[:1].isdigit() for cell in cells)


def of_columns(title: str, entries: Iterable[Entry], columns: Iterable[Column], notes: tuple[str, ...] = ()) -> Table:
    """A table with the columns given; entries that an earlier run left are marked, see `origins`."""
    entries, columns = list(entries), list(columns)
    rows = []
    for entry in entries:
        first, *others = [cell(entry) for _, cell in columns]
        rows.append((first + _mark(entry), *others))
    notes += tuple(dict.fromkeys(entry["note"] for entry in entries if entry.get("note")))
    return Table(title, tuple(heading for heading, _ in columns), tuple(rows), notes)


def generic(title: str, entries: list[Entry], without: frozenset[str] = frozenset()) -> Table:
    """A table of whatever the entries hold but ``without``: parameters, time, all plain values, ratio and goal."""
    columns: list[Column] = []
    if len({entry["name"] for entry in entries}) > 1:
        columns.append(("what", lambda entry: entry["name"].replace("_", " ")))
    columns += [_param(key) for key in _keys(entry["params"] for entry in entries)]
    if "seconds" not in without and any(entry["seconds"] for entry in entries):
        columns.append(("time", time))
    columns += [_plain(key) for key in _keys(_plain_values(entry) for entry in entries) if key not in without]
    columns += ratio_columns(entries)
    return of_columns(title, entries, columns, ratio_notes(entries))


def ratio_columns(entries: list[Entry]) -> list[Column]:
    """The ratio and what it is of; goal and verdict where any entry has one."""
    if not any(entry.get("ratio") for entry in entries):
        return []
    columns: list[Column] = [("ratio", _ratio)]
    if any(summary.reached(entry) is not None for entry in entries):
        columns += [("goal", _goal), ("", verdict)]
    if len(_what_of(entries)) > 1:
        columns.append(("of", lambda entry: entry.get("ratio", {}).get("of", "")))
    return columns


def ratio_notes(entries: list[Entry]) -> tuple[str, ...]:
    """What all ratios are of, if they are of one thing."""
    of = _what_of(entries)
    return (f"The ratio is {of[0]}.",) if len(of) == 1 else ()


def _what_of(entries: list[Entry]) -> list[str]:
    return list(dict.fromkeys(entry["ratio"]["of"] for entry in entries if entry.get("ratio")))


def time(entry: Entry) -> str:
    """The median."""
    return formatting.duration(entry["seconds"]["median"]) if entry["seconds"] else formatting.NOTHING


def verdict(entry: Entry) -> str:
    """Whether the goal is reached, in a word."""
    return {True: "reached", False: "missed", None: ""}[summary.reached(entry)]


def plain(key: str, heading: str | None = None) -> Column:
    """A column of one key's values."""
    return heading or formatting.heading(key), lambda entry: formatting.value(key, entry.get(key))


def _ratio(entry: Entry) -> str:
    return formatting.number(entry["ratio"]["value"]) if entry.get("ratio") else formatting.NOTHING


def _goal(entry: Entry) -> str:
    ratio = entry.get("ratio")
    if not ratio or ratio["goal"] is None:
        return formatting.NOTHING
    return f"{'≥' if ratio['higher_is_better'] else '≤'} {ratio['goal']:g}"


def _param(key: str) -> Column:
    return formatting.heading(key), lambda entry: formatting.value(key, entry["params"].get(key))


def _plain(key: str) -> Column:
    return plain(key)


def _plain_values(entry: Entry) -> dict[str, object]:
    return {
        key: item
        for key, item in entry.items()
        if key not in _SHOWN_ELSEWHERE and (isinstance(item, bool | int | float | str) or formatting.is_range(item))
    }


def _keys(dictionaries: Iterable[dict[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for dictionary in dictionaries for key in dictionary))


def _mark(entry: Entry) -> str:
    return "\u00a0†" if "from" in entry else ""


def origins(entries: list[Entry]) -> tuple[str, ...]:
    """Where the marked entries come from."""
    origins = dict.fromkeys(
        f"commit {entry['from']['commit']}, {entry['from']['created']}"
        + (", on another machine" if "machine" in entry["from"] else "")
        for entry in entries
        if "from" in entry
    )
    return (f"† measured by an earlier run: {'; '.join(origins)}.",) if origins else ()
