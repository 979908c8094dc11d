"""`python -m experiments.summary FILE...`: shorten results of `secagg experiment --results` for the page.

Figures of single writers become percentiles, and each value takes one line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from experiments.writers import summarized
from fl.experiments.results import Document, read_document


def to_text(document: Document) -> str:
    """Return the document as JSON, with one line for each value of the document and of each arm."""
    arms = ",\n".join("  " + _object(arm, "   ") for arm in document["arms"])
    head = _object({key: value for key, value in document.items() if key != "arms"}, " ")
    return f'{head[:-2]},\n "arms": [\n{arms}\n ]\n}}\n'


def _object(values: dict[str, Any], indent: str) -> str:
    lines = (f"{indent}{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items())
    return "{\n" + ",\n".join(lines) + f"\n{indent[:-1]}}}"


def main(paths: list[str]) -> None:
    """Rewrite the files in their short form."""
    for path in map(Path, paths):
        path.write_text(to_text(summarized(read_document(path))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
