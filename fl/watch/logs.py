"""Logs for people, and for machines: one JSON object per line."""

import json as json_text
import logging
import math
from datetime import UTC, datetime
from typing import Any, Final

from transport.errors import printable

_MAX_LINE: Final = 8192
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_FIXED: Final = frozenset(("time", "level", "logger", "message", "exception"))


class JsonFormatter(logging.Formatter):
    """`time` (ISO 8601, UTC), `level`, `logger`, `message`, the fields of ``extra``, and `exception`.

    Of ``extra`` only text, numbers, booleans, None, and collections of these are written.  Any other value is replaced
    by its type's name, since its repr may contain secrets.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in record.__dict__.items():
            # Frameworks such as Ray add private fields to each record.
            if name not in _STANDARD and not name.startswith("_"):
                entry[f"extra_{name}" if name in _FIXED else name] = _plain(value)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # ASCII, so that no character acts on a terminal.
        return json_text.dumps(entry, allow_nan=False)


class LineFormatter(logging.Formatter):
    """Time, level, logger and message on one line, also if a peer's text in the message has line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{_time(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        return "\n".join(printable(line, _MAX_LINE) for line in lines)


class _OwnHandler(logging.StreamHandler[Any]):
    """The type of this module's handler, to tell it from other handlers."""


def configure_logging(json: bool = False, level: str | int = "INFO") -> None:
    """Send the process's logs to stderr; a second call changes the settings and adds no handler.

    Args:
        json: True for one JSON object per line, not text for people.
        level: the lowest level that is written, by name or number.

    Raises:
        ValueError: the level is unknown.
    """
    handler = _OwnHandler()
    handler.setFormatter(JsonFormatter() if json else LineFormatter())
    root = logging.getLogger()
    root.setLevel(level.upper() if isinstance(level, str) else level)
    for old in [old for old in root.handlers if isinstance(old, _OwnHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return f"<{type(value).__name__}>"
