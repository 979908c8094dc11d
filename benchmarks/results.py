"""The results that the report shows: one JSON document per mode, merged from runs of pytest-benchmark.

::

    {"format": 1, "mode": "full", "created": ..., "version": ..., "commit": ..., "machine": {...},
     "results": [{"group", "name", "params", "seconds": {"median", "min", "max", "rounds"}, "ratio": {...}, ...}]}

`python -m benchmarks.results RUN.json` merges the output of ``pytest --benchmark-json=RUN.json``. The head describes
the latest run; an entry of an earlier run, on another commit or machine, names these in its "from". Compare ratios
between runs; compare seconds only within one run.
"""

import json
import os
import sys
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
    """Return the path of a mode's results ("full" or "quick")."""
    return FOLDER / f"{mode}.json"


def of_run(run: dict[str, Any]) -> Document:
    """Return the document of one run, from pytest-benchmark's output."""
    return {
        "format": FORMAT,
        "mode": run["mode"],
        "created": run["datetime"][:19] + "+00:00",
        "version": metadata.version("secagg-fl"),
        "commit": machine.commit(Path(__file__).parent.parent),
        "machine": run["machine_info"],
        "results": [checked(entry) for benchmark in run["benchmarks"] for entry in _entries(benchmark)],
    }


def checked(entry: Entry) -> Entry:
    """Return the entry if it is valid; raise ValueError or TypeError otherwise."""
    if entry.get("group") not in GROUPS:
        raise ValueError(f"{entry.get('name')}: group {entry.get('group')!r} is not one of {', '.join(GROUPS)}")
    if missing := {"name", "params", "seconds"} - entry.keys():
        raise ValueError(f"{entry.get('name')}: it lacks {', '.join(sorted(missing))}")
    if "ratio" in entry and (missing := {"value", "of", "goal", "higher_is_better"} - entry["ratio"].keys()):
        raise ValueError(f"{entry['name']}: its ratio lacks {', '.join(sorted(missing))}")
    # JSON has no NaN, and this finds other unusable values before the end of a long run.
    json.dumps(entry, allow_nan=False)
    return entry


def reached(entry: Entry) -> bool | None:
    """Return whether an entry reaches its goal; None without a goal."""
    ratio = entry.get("ratio")
    if ratio is None or ratio["goal"] is None:
        return None
    if ratio["higher_is_better"]:
        return bool(ratio["value"] >= ratio["goal"])
    return bool(ratio["value"] <= ratio["goal"])


def named(entries: list[Entry], group: str, *names: str) -> list[Entry]:
    """Return the entries of a group with one of the names; without names, all of the group."""
    return [entry for entry in entries if entry["group"] == group and (not names or entry["name"] in names)]


def points(entries: list[Entry], name: str) -> list[Entry]:
    """Return the entries of a scaling curve in the order of its axis."""
    return sorted(named(entries, "scaling", name), key=lambda entry: list(entry["params"].values()))


def vector_bytes(entry: Entry) -> int:
    """Return the bytes of the masked vector of a scaling point: its elements, packed."""
    bits: int = entry["params"]["length"] * entry["ring_bits"]
    return -(-bits // 8)


def key_bytes(entry: Entry) -> int:
    """Return a client's other bytes at a scaling point: keys, shares, lists and frames."""
    return int(entry["client_bytes_up"] + entry["client_bytes_down"] - vector_bytes(entry))


def identity(entry: Entry) -> str:
    """Return a text that is equal for two measurements of the same thing."""
    return json.dumps([entry["group"], entry["name"], entry["params"]], sort_keys=True)


def merge(old: Document | None, new: Document) -> Document:
    """Return ``new`` with the other entries of ``old``, each marked if it is from another commit or machine."""
    if old is None or old.get("format") != FORMAT or old.get("mode") != new["mode"]:
        return new
    measured = {identity(entry): entry for entry in new["results"]}
    kept = [_marked(entry, old, new) for entry in old["results"] if identity(entry) not in measured]
    # The sort is stable: within a group, entries that are kept come first, in their order.
    results = sorted(kept + new["results"], key=lambda entry: GROUPS.index(entry["group"]))
    return {**new, "results": results}


def read(path: Path) -> Document | None:
    """Return the document in a file, or None if there is no file."""
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return document


def write(path: Path, document: Document) -> None:
    """Replace the file in one step, so that an interrupted run leaves the old one."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _entries(benchmark: dict[str, Any]) -> list[Entry]:
    """Return the entries of one benchmark: its own, changed by its extra_info, and its further rows."""
    extra, stats = dict(benchmark["extra_info"]), benchmark["stats"]
    rows = extra.pop("rows", [])
    entry = {
        "group": benchmark["group"],
        "name": benchmark["name"].partition("[")[0].removeprefix("bench_"),
        "params": benchmark["params"] or {},
        "seconds": {name: stats[name] for name in ("median", "min", "max", "rounds")},
    }
    return [entry | extra, *rows]


def _marked(entry: Entry, old: Document, new: Document) -> Entry:
    if "from" in entry:
        return entry
    # Uncommitted changes may differ between runs of the same commit.
    same_code = old["commit"] == new["commit"] and old["commit"] is not None and not old["commit"].endswith("+")
    if same_code and old["machine"] == new["machine"]:
        return entry
    source = {"commit": old["commit"], "created": old["created"]}
    if old["machine"] != new["machine"]:
        source["machine"] = old["machine"]
    return {**entry, "from": source}


def main(paths: list[str]) -> None:
    """Merge runs into the results of their modes."""
    for path in paths:
        document = of_run(json.loads(Path(path).read_text(encoding="utf-8")))
        kept = path_of(document["mode"])
        write(kept, merge(read(kept), document))
        print(kept)


if __name__ == "__main__":
    main(sys.argv[1:])
