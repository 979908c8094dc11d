"""Text that somebody else wrote, made fit to be shown: in a terminal, a log, or on a page."""

MAX_ERROR_TEXT = 2000
"""Characters of an error's text, at most."""


def printable(text: str, limit: int = 200) -> str:
    """The text on one line of at most ``limit`` characters, in which nothing acts on whatever shows it.

    Control characters, line breaks, marks that change the direction of writing or cannot be seen, and halves of
    surrogate pairs stand there as Python would write them, such as ``\\x1b``. Other text stays as it is.
    """
    # What is cut off anyway is not looked at.
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."
