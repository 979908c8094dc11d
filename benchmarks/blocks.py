"""The tables that comparisons write into the documentation, each between two marks of its page."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def read_results(name: str) -> dict[str, Any]:
    """Return what the comparison of that name found the last time."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def write_results(name: str, document: dict[str, Any]) -> None:
    """Keep what a comparison found."""
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def new_document(results: list[dict[str, Any]], **versions: Any) -> dict[str, Any]:
    """Return a document of results that were found on this machine and now."""
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(REPOSITORY),
        "machine": {**machine.describe(), **versions},
        "results": results,
    }


def with_block(page: str, begin: str, end: str, block: str) -> str:
    """Return the page with ``block`` between the two marks. LookupError if they are not there."""
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise LookupError(f"the page has no marks {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{block.strip()}\n\n{end}{after}"


def write_block(page: Path, begin: str, end: str, block: str) -> None:
    """Put the block between the two marks of a file."""
    page.write_text(with_block(page.read_text(encoding="utf-8"), begin, end, block), encoding="utf-8")
