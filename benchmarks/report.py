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

secagg {version} on {cpu}, {cores} cores ({flags}), {memory}, {os}; Python {python}, numpy {numpy}, cryptography
{cryptography}, {openssl}; {mode} run of commit {commit}, {created}.

**{reached} of {goals} goals are reached.** {missed}

Compare ratios between machines and runs: seconds drift, on shared machines by a factor of two. Goals are for a machine
of this kind. Every figure on this page is computed from the [results]({results}).
[benchmarks/README.md](../benchmarks/README.md) says how to measure again.
"""


def page(document: Document, drawn: set[str]) -> str:
    """Return the page; ``drawn`` holds the names of the existing figures."""
    entries, machine = document["results"], document["machine"]
    verdicts = [verdict for entry in entries for verdict in _verdicts(entry)]
    missed = [text for text, is_reached in verdicts if not is_reached]
    parts = [
        _HEAD.format(
            **machine,
            **{name: document[name] for name in ("version", "mode", "commit")},
            created=document["created"][:10],
            flags=", ".join(machine["cpu_flags"]),
            memory=size(machine["memory_bytes"]),
            reached=len(verdicts) - len(missed),
            goals=len(verdicts),
            missed=f"Missed: {'; '.join(missed)}." if missed else "",
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
    return [f"† measured by an earlier run: {'; '.join(origins)}."] if origins else []


Section = tuple[str, str, Callable[[list[Entry]], list[str]], dict[str, str]]
"""For each section: the heading, an introduction, the tables, and the figures with a description."""

SECTIONS: dict[str, Section] = {
    "figure8": (
        "The paper's figure 8",
        "The setting of Bonawitz et al. (CCS 2017), figure 8: complete graph, 100,000 entries of 24 bits. Clients "
        "drop out after ShareKeys and before MaskedInputCollection. Everything runs on one core with real bytes, "
        "decoding and encoding included. The paper used another machine (Java, Xeon E5-1650 v3), so the speed-up is "
        "that of program and machine together.",
        tables.figure8,
        {"figure8": "Speed-up over the published times, by row"},
    ),
    "communication": (
        "Communication",
        "All bytes that one client sends and receives, session ids, flags and frames included, over the bytes of its "
        "16-bit values in the clear. These figures are the same on every machine.",
        tables.communication,
        {},
    ),
    "peers": (
        "Peers",
        "The same work on the same machine in one run: all clients and the server, one after the other in one "
        "process, without a network. secagg runs directly before and directly after the peer, and the slower of the "
        "two counts. The sums of both sides are checked. The peers run in separate processes, in their own "
        "environment.",
        tables.peers,
        {"peers": "Seconds of each peer and of secagg"},
    ),
    "scaling": (
        "Scaling",
        "`secagg simulate` in a separate process for each point: real keys, masks and bytes of all clients and the "
        "server. 5% of the clients drop out after ShareKeys; on the sparse graph another 5% may work together with an "
        "honest-but-curious server. Times are computing time without the making of inputs; a client's figures are "
        "medians. Memory is the peak of the process with all clients, without the child processes of a long "
        "recovery. Every sum is exact, or the benchmark fails.",
        tables.scaling,
        {
            "scaling-clients": "Time, memory and a client's part, by number of clients",
            "scaling-length": "Time and memory, by length of the vector",
        },
    ),
    "malicious": (
        "Against a server that lies",
        "The same session twice, at the same time in two processes on one core each: against a server that only "
        "looks, and against one that may lie at any time, with identities, signed keys and ConsistencyCheck. Complete"
        " graph, 5% of the clients drop out, the threshold is the same. A client's figures are medians; the server's "
        "bytes are those of all clients.",
        tables.malicious,
        {},
    ),
    "network": (
        "Between processes",
        "Server and clients in three processes on loopback, TLS 1.3 with certificates on both sides, compared with "
        "`transport.run_session` in one process; on all cores, and on a single one. The time runs from the start "
        "signal, with the server listening, keys loaded and inputs made, until the server has its sum and each client "
        "knows of the end; connecting and handshakes are included. A tenth of the clients drop out when their input is "
        "due: over TLS they come back without their state, so the server drops them at once and waits for no "
        "deadline. Every sum is exact, or the benchmark fails.",
        tables.network,
        {},
    ),
    "micro": (
        "Pieces",
        "Each piece of the library, compared with the least cost of its work and timed in turn with it. The ratio is "
        "the result: seconds vary with the machine.",
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
