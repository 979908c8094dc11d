"""Format values as text, by their unit."""

NOTHING = "–"


def significant(value: float) -> str:
    """Return three significant digits, or all digits of a longer integer."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def number(value: float | None) -> str:
    """Return a count, or three significant digits; very small ones with an exponent."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2g}" if value and abs(value) < 0.01 else significant(value)


def duration(seconds: float) -> str:
    """Return seconds in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{significant(seconds / size)} {unit}"
    return f"{significant(seconds / 1e-9)} ns" if seconds else "0 s"


def size(num_bytes: float) -> str:
    """Return bytes in the decimal unit that fits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{significant(num_bytes / factor)} {unit}"
    return f"{num_bytes:,.0f} B"


def factor(value: float) -> str:
    """Return a ratio."""
    return f"{number(value)}×"


def params(items: dict[str, object]) -> str:
    """Return parameters as one text."""
    return ", ".join(f"{_words(key)} {value(key, item)}" for key, item in items.items())


def _words(key: str) -> str:
    return key.replace("_", " ").replace("kib", "KiB")


def value(key: str, item: object) -> str:
    """Return a parameter's value."""
    if key == "dropout":
        return f"{item:.0%}"
    if isinstance(item, bool):
        return "yes" if item else "no"
    return number(item) if isinstance(item, int | float) else str(item)
