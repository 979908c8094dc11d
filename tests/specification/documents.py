"""The generated parts, and their places in the documents."""

import sys
from collections.abc import Callable
from pathlib import Path

from secagg import Adversary

from .dumps import dumps
from .recording import Recording
from .tables import client_table, server_table

DOCS = Path(__file__).parents[2] / "docs"


def parts() -> dict[str, dict[str, str]]:
    """The generated parts, by document and by the name in their markers."""
    sessions = [Recording(adversary, 3) for adversary in Adversary]
    return {
        "protocol.md": {**_tables("client", client_table, sessions), **_tables("server", server_table, sessions)},
        "wire-format.md": {"dumps": dumps()},
    }


def _tables(side: str, table: Callable[[Recording], str], sessions: list[Recording]) -> dict[str, str]:
    """A table for each group of adversaries that have the same, named after them."""
    adversaries: dict[str, list[str]] = {}
    for session in sessions:
        adversaries.setdefault(table(session), []).append(session.params.adversary.value)
    return {f"{side} states, {' and '.join(group)}": text for text, group in adversaries.items()}


def replaced(text: str, generated: dict[str, str]) -> str:
    """The document with its generated parts as they are to be."""
    for name, part in generated.items():
        begin = f"<!-- generated: {name} -->\n"
        if text.count(begin) != 1:
            raise ValueError(f"{text.count(begin)} places for the generated part '{name}', not one")
        before, _, rest = text.partition(begin)
        _, end, after = rest.partition("<!-- end -->\n")
        text = f"{before}{begin}\n{part}\n{end}{after}"
    return text


def write() -> None:
    """Write the parts into the documents."""
    for name, generated in parts().items():
        path = DOCS / name
        old = path.read_text(encoding="utf-8")
        new = replaced(old, generated)
        if new != old:
            path.write_text(new, encoding="utf-8")
        sys.stdout.write(f"{name}: {'written' if new != old else 'up to date'}\n")
