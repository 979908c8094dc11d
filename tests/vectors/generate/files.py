"""All files, by name."""

from .layout import to_plain, to_text
from .messages import build_messages
from .negative import build_negative
from .primitives import build_primitives
from .sessions import build_sessions


def build_files() -> dict[str, str]:
    """Return each file's name and text."""
    sessions = to_plain(build_sessions())
    content = {
        "primitives.json": build_primitives(),
        "messages.json": build_messages(),
        **sessions,
        "negative.json": build_negative(sessions),
    }
    return {name: to_text(value) + "\n" for name, value in content.items()}
