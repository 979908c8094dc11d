"""The results file: one JSON document a mode, into which a partial run is merged.

::

    {"format": 1, "mode": "full", "created": ..., "version": ..., "commit": ..., "machine": {...},
     "results": [{"group", "name", "params", "seconds": {"median", "min", "max", "rounds"}, "ratio": {...}, ...}],
     "skipped": [{"name", "reason"}]}

The head speaks of the latest run.  An entry that an earlier run left, on another commit or machine, says so in
its "from".  Ratios are what may be compared between runs, seconds only within one.
"""

import json
import os
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import machine

FORMAT = 1
GROUPS = ("micro", "figure8", "communication", "peers", "scaling", "malicious", "network")
FOLDER = Path(__file__).parent / "results"

Entry: TypeAlias = dict[str, Any]
Document: TypeAlias = dict[str, Any]


def path_of(mode: str) -> Path:
    """Where the results of a mode, "full" or "quick", are kept."""
    return FOLDER / f"{mode}.json"


def new_document(mode: str, entries: list[Entry], skipped: list[dict[str, str]]) -> Document:
    """The document of one run, on this machine and now."""
    return {
        "format": FORMAT,
        "mode": mode,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": metadata.version("secagg-fl"),
        "commit": machine.commit(Path(__file__).parent.parent),
        "machine": machine.describe(),
        "results": entries,
        "skipped": skipped,
    }


def checked(entry: Entry) -> Entry:
    """The entry, if it is one; ValueError or TypeError otherwise."""
    if entry.get("group") not in GROUPS:
        raise ValueError(f"{entry.get('name')}: group {entry.get('group')!r} is not one of {', '.join(GROUPS)}")
    if missing := {"name", "params", "seconds"} - entry.keys():
        raise ValueError(f"{entry.get('name')}: without {', '.join(sorted(missing))}")
    if "ratio" in entry and (missing := {"value", "of", "goal", "higher_is_better"} - entry["ratio"].keys()):
        raise ValueError(f"{entry['name']}: a ratio without {', '.join(sorted(missing))}")
    # NaN is no JSON, and a value that is not plain is found here instead of at the end of a long run.
    json.dumps(entry, allow_nan=False)
    return entry


def identity(entry: Entry) -> str:
    """Equal for two measurements of one thing."""
    return json.dumps([entry["group"], entry["name"], entry["params"]], sort_keys=True)


def merge(old: Document | None, new: Document) -> Document:
    """``new`` with the entries of ``old`` that it did not measure anew, each marked if it is from elsewhere."""
    if old is None or old.get("format") != FORMAT or old.get("mode") != new["mode"]:
        return new
    measured = {identity(entry): entry for entry in new["results"]}
    kept = [_marked(entry, old, new) for entry in old["results"] if identity(entry) not in measured]
    # A skip names its parameters in brackets, a result has them apart.
    names = {_base(found["name"]) for found in new["results"] + new["skipped"]}
    skipped = [skip for skip in old["skipped"] if _base(skip["name"]) not in names]
    # Stable: within a group, what is kept comes first, in its order.
    results = sorted(kept + new["results"], key=lambda entry: GROUPS.index(entry["group"]))
    return {**new, "results": results, "skipped": skipped + new["skipped"]}


def read(path: Path) -> Document | None:
    """The document in a file, or None if there is no file."""
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return document


def write(path: Path, document: Document) -> None:
    """Replace the file at once: a run that is interrupted leaves the old one."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _base(name: str) -> str:
    return name.split("[", 1)[0]


def _marked(entry: Entry, old: Document, new: Document) -> Entry:
    if "from" in entry:
        return entry
    # Uncommitted changes may differ from one run to the next, although the commit does not.
    same_code = old["commit"] == new["commit"] and old["commit"] is not None and not old["commit"].endswith("+")
    if same_code and old["machine"] == new["machine"]:
        return entry
    source = {"commit": old["commit"], "created": old["created"]}
    if old["machine"] != new["machine"]:
        source["machine"] = old["machine"]
    return {**entry, "from": source}
