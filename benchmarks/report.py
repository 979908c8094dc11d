"""`python -m benchmarks.report`: write docs/benchmarks.md and its figures from the results of `make bench`."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import figures, formatting, results
from benchmarks import report_tables as tables
from benchmarks.formatting import number, size
from benchmarks.results import Document, Entry, named, reached

_HEAD = """# Benchmarks

<!-- Written by `python -m benchmarks.report`: change that, or measure again, instead of this file. -->

{in_short}

On {cpu}, {cores} cores ({flags}), {memory}, {os}; Python {python}, numpy {numpy}, cryptography {cryptography},
{openssl}; secagg {version}, {mode} run of commit {commit}, {created}.

Compare ratios between machines and runs: seconds drift, on shared machines by a factor of two. Goals are in
brackets behind their ratios. Every figure is computed from the [results]({results});
[benchmarks/README.md](../benchmarks/README.md) says how to measure again.
"""

_GOALS = """## Goals

**{reached} of {goals} goals are reached.** {missed} Goals are for a machine of this kind.
"""


def page(document: Document, drawn: set[str]) -> str:
    """Return the page; ``drawn`` holds the names of the existing figures."""
    entries, machine = document["results"], document["machine"]
    parts = [
        _HEAD.format(
            **machine,
            **{name: document[name] for name in ("version", "mode", "commit")},
            created=document["created"][:10],
            flags=", ".join(machine["cpu_flags"]),
            memory=size(machine["memory_bytes"]),
            in_short=tables.in_short(entries),
            results=f"../benchmarks/results/{document['mode']}.json",
        ).strip()
    ]
    for group, (title, text, make_tables, pictures) in SECTIONS.items():
        own = named(entries, group)
        parts += [f"## {title}", text]
        parts += [f"![{alt}](benchmarks/{name}.png)" for name, alt in pictures.items() if name in drawn]
        parts += [block for block in (make_tables(own) if own else ["*Not run.*"]) if block]
        parts += list(dict.fromkeys(entry["note"] for entry in own if "note" in entry))
        parts += _origins(own)
    verdicts = [verdict for entry in entries for verdict in _verdicts(entry)]
    missed = [text for text, is_reached in verdicts if not is_reached]
    parts.append(
        _GOALS.format(
            reached=len(verdicts) - len(missed),
            goals=len(verdicts),
            missed=f"Missed: {'; '.join(missed)}." if missed else "",
        ).strip()
    )
    return "\n\n".join(parts) + "\n"


def _verdicts(entry: Entry) -> Iterable[tuple[str, bool]]:
    """Yield each goal of an entry as text, and whether it is reached."""
    what = f"{entry['name'].replace('_', ' ')} ({formatting.params(entry['params'])})"
    is_reached = reached(entry)
    if is_reached is not None:
        ratio = entry["ratio"]
        yield f"{what}, {ratio['of']}: {number(ratio['value'])}, goal {tables.goal(entry)}", is_reached
    for name, limit in entry.get("limits", {}).items():
        yield f"{what}: {name} {limit['value']:g}, limit {limit['most']:g}", limit["value"] <= limit["most"]


def _origins(entries: list[Entry]) -> list[str]:
    """Return a line about the origins of the marked entries."""
    origins = dict.fromkeys(
        f"commit {entry['from']['commit']}, {entry['from']['created'][:10]}"
        + (", on another machine" if "machine" in entry["from"] else "")
        for entry in entries
        if "from" in entry
    )
    return [f"† from an earlier run: {'; '.join(origins)}."] if origins else []


Section = tuple[str, str, Callable[[list[Entry]], list[str]], dict[str, str]]
"""For each section: the heading, an introduction, the tables, and the figures with a description."""

SECTIONS: dict[str, Section] = {
    "figure8": (
        "The paper's figure 8",
        "Bonawitz et al. (CCS 2017), figure 8: complete graph, 100,000 entries of 24 bits; clients drop out between "
        "ShareKeys and MaskedInputCollection. All on one core with real bytes, coding included. The paper used Java on "
        "a Xeon E5-1650 v3, so the speed-up is that of program and machine together.",
        tables.figure8,
        {"figure8": "Speed-up over the published times, by row"},
    ),
    "communication": (
        "Communication",
        "All bytes that one client sends and receives, frames included, over the bytes of its 16-bit values in the "
        "clear. The same on every machine.",
        tables.communication,
        {},
    ),
    "peers": (
        "Peers",
        "The same work on the same machine: all clients and the server, one after the other in one process, without a "
        "network. secagg runs before and after the peer, which has a process and environment of its own; the slower "
        "run counts. The sums of both sides are checked.",
        tables.peers,
        {"peers": "Seconds of each peer and of secagg"},
    ),
    "scaling": (
        "Scaling",
        "`secagg simulate`, one process a point, with real keys, masks and bytes. 5% of the clients drop out after "
        "ShareKeys; on the sparse graph another 5% may work with an honest-but-curious server. Times are computing "
        "time without the making of inputs; a client's figures are medians. Memory is the peak of the process with all "
        "clients, without the child processes of a long recovery. Every sum is checked.",
        tables.scaling,
        {
            "scaling-clients": "Time, memory and a client's part, by number of clients",
            "scaling-length": "Time and memory, by length of the vector",
        },
    ),
    "malicious": (
        "Against a server that lies",
        "The same session in malicious mode and in honest-but-curious mode, at the same time on one core each. "
        "Complete graph, 5% of the clients drop out, equal thresholds. A client's figures are medians; the server's "
        "bytes are those of all clients.",
        tables.malicious,
        {},
    ),
    "network": (
        "Between processes",
        "Server and clients in three processes on loopback, TLS 1.3 with certificates on both sides, compared with "
        "`transport.run_session` in one process; on all cores, and on one. Time runs from the start signal (server "
        "listening, keys loaded, inputs made) until the server has its sum and each client knows of the end, with "
        "handshakes. A tenth of the clients drop out when their input is due: over TLS they come back without their "
        "state, so the server drops them without waiting for a deadline. Every sum is checked.",
        tables.network,
        {},
    ),
    "micro": (
        "Pieces",
        "Each piece, timed in turn with the least cost of its work. The ratio is the result: seconds vary with the "
        "machine. Vectors have 1,000,000 elements where nothing else is said.",
        tables.micro,
        {"micro": "Ratios to the raw primitives"},
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the page was written, and 1 if the results are missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=results.path_of("full"), help="results of `make bench`")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="the folder of benchmarks.md and benchmarks/")
    options = parser.parse_args(arguments)
    try:
        document = results.read(options.results)
    except ValueError:  # the file is not UTF-8, or not JSON
        document = None
    if document is None or document.get("format") != results.FORMAT:
        print(f"error: {options.results} has no results of this version: run `make bench` first", file=sys.stderr)
        return 1
    drawn = figures.write(document["results"], options.out / "benchmarks")
    (options.out / "benchmarks.md").write_text(page(document, drawn), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
