"""Values as text, by the unit that their key names."""

from typing import TypeGuard

from benchmarks import summary

NOTHING = "–"

_UNITS = {"gigabytes_per_second": "GB/s"}
_HEADINGS = {"gigabytes_per_second": "throughput", "peak_rss_bytes": "peak memory"}


def value(key: str, item: object) -> str:
    """A scalar, or a range of two, as text; "seconds", "milliseconds" or "bytes" in the key give the unit."""
    if item is None:
        return NOTHING
    if isinstance(item, bool):
        return "yes" if item else "no"
    if is_range(item):
        low, high = (value(key, end) for end in item)
        return f"{low} to {high}"
    if not isinstance(item, int | float):
        return str(item)
    words = key.split("_")
    if key == "dropout":
        return f"{item:.0%}"
    if key in _UNITS:
        return f"{summary.significant(item)} {_UNITS[key]}"
    if "milliseconds" in words:
        return f"{summary.significant(item)} ms"
    if "seconds" in words:
        return duration(item)
    if "bytes" in words:
        return size(item)
    return f"{item:,}" if isinstance(item, int) else number(item)


def is_range(item: object) -> TypeGuard[list[float]]:
    """Whether it is a pair of numbers: a least and a most."""
    return isinstance(item, list) and len(item) == 2 and all(isinstance(end, int | float) for end in item)


def heading(key: str) -> str:
    """A key as a column's heading."""
    dropped = {"bytes", "seconds", "milliseconds"}
    if key in _HEADINGS:
        return _HEADINGS[key]
    words = [word.replace("kib", "KiB") for word in key.split("_") if word not in dropped]
    return " ".join(words) or key


def duration(seconds: float) -> str:
    """Seconds with the unit that fits."""
    return "0 s" if seconds == 0 else summary.duration(seconds).replace(" us", " µs")


def size(num_bytes: float) -> str:
    """Bytes with the decimal unit that fits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{summary.significant(num_bytes / factor)} {unit}"
    return f"{num_bytes:,.0f} B"


def number(item: float) -> str:
    """Three significant digits; very small ones with an exponent."""
    return f"{item:.2g}" if item and abs(item) < 0.01 else summary.significant(item)


def factor(item: float) -> str:
    """A ratio."""
    return f"{number(item)}×"


def params(items: dict[str, object]) -> str:
    """Parameters in a row."""
    return ", ".join(f"{heading(key)} {value(key, item)}" for key, item in items.items())
