"""Results as text: one aligned table a group."""

from itertools import groupby

from benchmarks.results import Entry

_HEAD = ("", "time", "ratio", "goal", "")


def table(entries: list[Entry]) -> str:
    """Time, ratio, goal and whether it is reached, a line an entry, under its name and what the ratio is of."""
    lines: list[tuple[str, ...] | str] = [_HEAD]
    for (name, of), rows in groupby(entries, key=_title):
        lines.append(f"{name}: {of}" if of else name)
        lines.extend(_row(entry) for entry in rows)
    cells = [line for line in lines if isinstance(line, tuple)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEAD))]
    text = [line if isinstance(line, str) else _aligned(line, widths) for line in lines]
    notes = dict.fromkeys(entry["note"] for entry in entries if "note" in entry)
    return "\n".join([*text, *(f"note: {note}" for note in notes)])


def reached(entry: Entry) -> bool | None:
    """Whether an entry reaches its goal; None if it has none."""
    ratio = entry.get("ratio")
    if ratio is None or ratio["goal"] is None:
        return None
    if ratio["higher_is_better"]:
        return bool(ratio["value"] >= ratio["goal"])
    return bool(ratio["value"] <= ratio["goal"])


def duration(seconds: float) -> str:
    """Three significant digits, in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-9)} ns"


def significant(value: float) -> str:
    """Three significant digits, and no fewer than the integer has."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def _title(entry: Entry) -> tuple[str, str]:
    return entry["name"], entry["ratio"]["of"] if "ratio" in entry else ""


def _row(entry: Entry) -> tuple[str, ...]:
    params = "  " + " ".join(f"{name}={value}" for name, value in entry["params"].items())
    time = "" if entry["seconds"] is None else duration(entry["seconds"]["median"])
    ratio = entry.get("ratio")
    if ratio is None:
        return params, time, "", "", ""
    goal = "" if ratio["goal"] is None else f"{'>=' if ratio['higher_is_better'] else '<='} {ratio['goal']:g}"
    verdict = {True: "reached", False: "MISSED", None: ""}[reached(entry)]
    return params, time, _ratio(ratio["value"]), goal, verdict


def _ratio(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else significant(value)


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    first, *others = row
    cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
    return "  ".join((first.ljust(widths[0]), *cells)).rstrip()
