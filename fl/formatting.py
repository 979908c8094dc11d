"""Figures as text."""


def format_bytes(count: float) -> str:
    """Decimal units, three figures: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def percent(fraction: float | None) -> str:
    """Two decimals, since half a point is what runs differ by."""
    return "-" if fraction is None else f"{100 * fraction:.2f}%"
