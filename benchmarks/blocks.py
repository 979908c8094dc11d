"""The results of comparisons, and the blocks that `make generated` makes from them in the documentation."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def read_results(name: str) -> dict[str, Any]:
    """Return the last results of the comparison of that name."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def write_results(name: str, document: dict[str, Any]) -> None:
    """Store the results of a comparison."""
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def new_document(results: list[dict[str, Any]], **versions: Any) -> dict[str, Any]:
    """Return a document of results, with this machine and the present time."""
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(REPOSITORY),
        "machine": {**machine.describe(), **versions},
        "results": results,
    }


def block(table: Callable[[dict[str, Any]], str], name: str) -> str:
    """Return the table of the results of that name, between empty lines, for `cog` to put into a page."""
    return f"\n{table(read_results(name)).strip()}\n\n"
