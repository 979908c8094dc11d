"""The paper's figures, from the JSON files in tables."""

import json
from pathlib import Path
from typing import Any, Final

_FOLDER = Path(__file__).parent / "tables"

EXPANSION_MILLISECONDS: Final = (2.0, 2.7)
"""Milliseconds of one mask of 100,000 elements on the paper's server: Unmasking over d(n - d), least and most."""


def figure8() -> list[dict[str, Any]]:
    """Return the rows of the paper's figure 8: role, clients, dropout, and milliseconds by round."""
    return _rows("figure8.json")


def communication() -> list[dict[str, Any]]:
    """Return the communication expansions that the papers state, with our goals."""
    return _rows("communication.json")


def _rows(name: str) -> list[dict[str, Any]]:
    table: dict[str, list[dict[str, Any]]] = json.loads((_FOLDER / name).read_text(encoding="utf-8"))
    return table["rows"]
