"""The tables of docs/benchmarks.md, group by group, from the entries of a results file."""

from collections.abc import Callable
from itertools import groupby
from math import log
from operator import itemgetter
from typing import Any

from benchmarks import formatting
from benchmarks.figures import LARGE, log_fit
from benchmarks.formatting import NOTHING, duration, factor, number, size
from benchmarks.results import Entry, key_bytes, named, points, reached

Column = tuple[str, Callable[[Any], str]]
"""A column: its heading, and a function that returns a row's cell."""


def _table(rows: list[Any], *columns: Column, title: str = "") -> str:
    """Return a Markdown table; entries of earlier runs are marked."""
    if not rows:
        return ""
    cells = []
    for row in rows:
        first, *others = [cell(row) for _, cell in columns]
        entries = row if isinstance(row, list) else [row]
        earlier = any(isinstance(entry, dict) and "from" in entry for entry in entries)
        cells.append([first + ("\u00a0†" if earlier else ""), *others])
    rules = ["---:" if any(cell[:1].isdigit() for cell in column) else ":---" for column in zip(*cells, strict=True)]
    lines = [[heading for heading, _ in columns], [":---", *rules[1:]], *cells]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{title}**\n\n{text}" if title else text


def _param(name: str, heading: str = "") -> Column:
    return heading or name, lambda entry: formatting.value(name, entry["params"][name])


def _column(heading: str, show: Callable[[Any], str], key: str) -> Column:
    return heading, lambda entry: NOTHING if entry.get(key) is None else show(entry[key])


def _ratio(heading: str) -> Column:
    def cell(entry: Entry) -> str:
        if "ratio" not in entry:
            return NOTHING
        missed = ", missed" if reached(entry) is False else ""
        limit = "" if reached(entry) is None else f" ({goal(entry)}{missed})"
        return number(entry["ratio"]["value"]) + limit

    return heading, cell


def goal(entry: Entry) -> str:
    """Return the goal of an entry's ratio, if it has one."""
    ratio = entry["ratio"]
    return f"{'≥' if ratio['higher_is_better'] else '≤'} {ratio['goal']:g}"


_DROPOUT = _param("dropout")[1]
_TIME: Column = "time", lambda entry: duration(entry["seconds"]["median"])


def in_short(entries: list[Entry]) -> str:
    """Return the table at the top of the page: whole rounds, beside other programs."""
    rows = [
        (
            f"{entry['params']['clients']:,} clients, sparse graph, 5% drop out",
            duration(entry["seconds"]["median"]),
            f"a client's part: {duration(entry['client_seconds'])}",
        )
        for entry in points(entries, "clients")
        if entry["params"]["clients"] >= LARGE
    ]
    for entry in named(entries, "peers", "flower_round")[-1:]:
        clients, vanish = entry["params"]["clients"], entry["params"]["vanish"]
        beside = f"{entry['peer']} {entry['peer_version']}: {duration(entry['peer_seconds'])}"
        rows.append(
            (f"{clients} clients, complete graph, {vanish} drop out", duration(entry["secagg_seconds"]), beside)
        )
    for entry in named(entries, "figure8", "server")[-1:]:
        what = f"the server alone: {entry['params']['clients']:,} clients, complete graph, {_DROPOUT(entry)} drop out"
        published = (entry.get("published_milliseconds") or {}).get("total")
        beside = f"the paper's, on its machine: {duration(published / 1000)}" if published else NOTHING
        rows.append((what, duration(entry["milliseconds"]["total"] / 1000), beside))
    for entry in named(entries, "network", "session")[:1]:
        beside = f"in one process: {duration(entry['in_memory_seconds'])}"
        rows.append((f"{entry['params']['clients']} clients over TLS", _TIME[1](entry), beside))
    head = ("a sum of 100,000 values", "time", "beside")
    columns: list[Column] = [(heading, itemgetter(place)) for place, heading in enumerate(head)]
    return _table(rows, *columns)


def figure8(entries: list[Entry]) -> list[str]:
    """Return the paper's rounds, with our and the published time in each cell; then single masks."""
    rows = [entry for entry in entries if entry["name"] in ("client", "server")]

    def beside_published(name: str) -> Column:
        def cell(entry: Entry) -> str:
            published = entry.get("published_milliseconds")
            ours = number(entry["milliseconds"][name])
            return f"{ours} / {number(published[name])}" if published else ours

        return name, cell

    rounds = list(rows[0]["milliseconds"]) if rows else []
    who: list[Column] = [("role", lambda entry: entry["name"]), _param("clients"), _param("dropout", "vanish")]
    expansions = [entry for entry in entries if entry["name"] == "expansion"]
    by_ring = [entry for entry in entries if entry["name"] == "expansion_by_ring"]
    return [
        _table(rows, *who, *map(beside_published, rounds), _ratio("speed-up"), title="Milliseconds here / published"),
        _table(
            expansions + by_ring,
            ("setting", lambda entry: formatting.params(entry["params"])),
            _TIME,
            _column("published, ms", _range, "published_milliseconds"),
            _ratio("speed-up"),
            title="One mask of a dropped client, made and subtracted",
        ),
    ]


def _range(value: float | list[float]) -> str:
    return " to ".join(map(number, value)) if isinstance(value, list) else number(value)


def communication(entries: list[Entry]) -> list[str]:
    """Return the table of a client's bytes."""
    return [
        _table(
            entries,
            _param("clients"),
            _param("elements"),
            _param("graph"),
            _column("ring bits", number, "ring_bits"),
            _column("bytes", size, "bytes"),
            _ratio("over the clear"),
            _column("the paper's formula", number, "published_formula"),
        )
    ]


def peers(entries: list[Entry]) -> list[str]:
    """Return secagg and its peers side by side; then the parts of Flower's time."""
    staged = [entry for entry in entries if entry.get("peer_stages")]
    stages = list(staged[0]["peer_stages"]) if staged else []

    def stage(name: str) -> Column:
        heading = name.removesuffix("_stage").replace("_", " ")
        return heading, lambda entry: duration(entry["peer_stages"][name])

    return [
        _table(
            entries,
            ("peer", lambda entry: f"{entry['peer']} {entry['peer_version']}"),
            _column("work", str, "work"),
            _param("clients"),
            ("vanish", lambda entry: number(entry["params"].get("vanish", 0))),
            _column("the peer", duration, "peer_seconds"),
            _column("secagg", duration, "secagg_seconds"),
            _ratio("the peer's time over secagg's"),
        ),
        _table(
            staged,
            _param("clients"),
            *map(stage, stages),
            _column("Flower's error of the mean", number, "peer_max_abs_error"),
            _column("secagg's", number, "max_abs_error"),
            title="Where Flower's time goes, and how far both means are from float arithmetic",
        ),
    ]


def scaling(entries: list[Entry]) -> list[str]:
    """Return the curves, their growth, and the planner's degrees."""
    columns: list[Column] = [
        _param("clients"),
        _param("length", "values"),
        _column("degree", number, "degree"),
        ("all together", lambda entry: duration(entry["seconds"]["median"])),
        _column("server", duration, "server_seconds"),
        _column("a client", duration, "client_seconds"),
        _column("it sends", size, "client_bytes_up"),
        _column("it receives", size, "client_bytes_down"),
        ("over the clear", lambda entry: factor(entry["ratio"]["value"])),
        _column("peak memory", size, "peak_rss_bytes"),
    ]
    curve = points(entries, "clients")
    return [
        _table(curve, *columns, title="More clients, sparse graph"),
        _growth(curve) if len(curve) > 2 else "",
        _table(points(entries, "length"), *columns, title="Longer vectors, complete graph"),
        *(_degrees(entry["curve"]) for entry in named(entries, "scaling", "degree")),
    ]


def _growth(curve: list[Entry]) -> str:
    """Return fits of a + b ln n, and the exponents of power laws through the same points."""
    clients = [entry["params"]["clients"] for entry in curve]
    quantities: list[tuple[str, Callable[[float], str], Callable[[Entry], float]]] = [
        ("neighbours", number, lambda entry: entry["degree"]),
        ("a client's time", duration, lambda entry: entry["client_seconds"]),
        ("a client's time per neighbour", duration, lambda entry: entry["client_seconds"] / entry["degree"]),
        ("a client's bytes besides its vector", size, key_bytes),
        ("the server's time per client", duration, lambda entry: entry["server_seconds"] / entry["params"]["clients"]),
    ]
    rows = []
    for name, show, of in quantities:
        values = [of(entry) for entry in curve]
        fit = log_fit(clients, values)
        if fit is not None:
            ends = show(values[0]), show(values[-1]), factor(values[-1] / values[0])
            rows.append((name, *ends, f"{fit.r_squared:.2f}", f"n^{fit.exponent:.2f}"))
    first, last = clients[0], clients[-1]
    head = ("of each client", f"at {first:,}", f"at {last:,}", "growth", "R² of a + b ln n", "as a power of n")
    columns: list[Column] = [(heading, itemgetter(place)) for place, heading in enumerate(head)]
    note = f"From {first:,} to {last:,} clients n grows {last / first:,.0f}×, ln n {log(last) / log(first):.2f}×."
    return _table(rows, *columns, title="Growth of a client's costs") + f"\n\n{note}"


def _degrees(curve: list[dict[str, int]]) -> str:
    """Return a line about the planner's degrees at powers of ten, and their growth."""
    shown = [point for point in curve if str(point["clients"]).strip("0") == "1"]
    degrees = ", ".join(f"{point['degree']} at {point['clients']:,}" for point in shown)
    text = f"Neighbours as planned: {degrees} clients"
    large = [point for point in curve if point["clients"] >= LARGE]
    fit = log_fit([point["clients"] for point in large], [point["degree"] for point in large])
    return f"{text}; from {LARGE:,} clients on {fit}, R² {fit.r_squared:.2f}." if fit else f"{text}."


def malicious(entries: list[Entry]) -> list[str]:
    """Return each role's costs, compared with those against an honest server."""
    return [
        _table(
            [entry for entry in entries if entry["name"] in ("client", "server")],
            ("role", lambda entry: entry["name"]),
            _param("clients"),
            _param("values"),
            _TIME,
            _column("honest", duration, "honest_seconds"),
            _ratio("time ratio"),
            _column("up", size, "bytes_up"),
            _column("ratio", number, "up_over_honest"),
            _column("down", size, "bytes_down"),
            _column("ratio", number, "down_over_honest"),
            _column("signatures made", number, "signatures_made"),
            _column("checked", number, "signatures_checked"),
        )
    ]


def network(entries: list[Entry]) -> list[str]:
    """Return sessions compared with those in memory; then the server's memory."""
    return [
        _table(
            named(entries, "network", "session"),
            _param("clients"),
            _param("values"),
            _param("cores"),
            ("over TLS", _TIME[1]),
            _column("in memory", duration, "in_memory_seconds"),
            _ratio("ratio"),
            _column("processor time, ratio", number, "cpu_ratio"),
            _column("of the server", duration, "server_cpu_seconds"),
            _column("connections", number, "connections"),
            _column("frames", number, "frames"),
            _column("commits", number, "commits"),
            title="Over TLS with a journal, compared with in memory",
        ),
        _table(
            named(entries, "network", "memory_of_the_server"),
            _param("clients"),
            _param("values"),
            _column("idle", size, "idle_bytes"),
            _column("peak", size, "peak_bytes"),
            _column("messages", size, "message_bytes"),
            _column("a further client", size, "bytes_of_a_further_client"),
            _ratio("over its messages"),
            title="The server's memory",
        ),
    ]


def micro(entries: list[Entry]) -> list[str]:
    """Return a table of all pieces; pieces without a goal, of which one parameter varies, share a row."""
    names = list(dict.fromkeys(entry["name"] for entry in entries))

    def order(entry: Entry) -> tuple[int, list[tuple[float, str]]]:
        """Return a sort key: numbers by size, other values by name."""
        values = entry["params"].values()
        sizes = [(float(item), "") if isinstance(item, int | float) else (0.0, str(item)) for item in values]
        return names.index(entry["name"]), sizes

    rows: list[list[Entry]] = []
    for _, group in groupby(sorted(entries, key=order), key=lambda entry: str(entry["name"])):
        found = list(group)
        rows += [found] if _share_a_row(found) else [[entry] for entry in found]
    of = [row[0]["ratio"]["of"] if "ratio" in row[0] else "" for row in rows]
    # Name a reference only in its first row.
    shown = {id(row): text for row, text, above in zip(rows, of, ["", *of], strict=False) if text != above}
    pairs = [entry for entry in entries if "milliseconds_per_pair" in entry]
    return [
        _table(
            rows,
            ("piece", lambda row: row[0]["name"].replace("_", " ")),
            ("of", _params_of),
            ("time", lambda row: _span([entry["seconds"]["median"] for entry in row], duration)),
            ("GB/s", lambda row: _span([entry.get("gigabytes_per_second") for entry in row], number)),
            ("ratio", _ratio_of),
            ("ratio of (also for the rows below)", lambda row: shown.get(id(row), "")),
        ),
        *(
            f"A recovered pair takes {number(entry['milliseconds_per_pair'])} ms (goal "
            f"{number(entry['goal_milliseconds_per_pair'])}); the paper's took "
            f"{_range(list(entry['published_milliseconds_per_pair']))} ms."
            for entry in pairs
        ),
    ]


def _share_a_row(row: list[Entry]) -> bool:
    params = [entry["params"] for entry in row]
    varied = [key for key in params[0] if len({str(found.get(key)) for found in params}) > 1]
    return (
        len(row) > 2
        and len(varied) == 1
        and isinstance(params[0][varied[0]], int)
        and all(reached(entry) is None for entry in row)
    )


def _params_of(row: list[Entry]) -> str:
    """Return the parameters of a row's entries; the usual number of elements goes without saying."""
    items: dict[str, object] = {}
    for name, item in row[0]["params"].items():
        values = [entry["params"][name] for entry in row]
        if (name, item) != ("elements", 1_000_000):
            items[name] = item if len(set(values)) == 1 else _span(values, number)
    return formatting.params(items)


def _ratio_of(row: list[Entry]) -> str:
    if len(row) == 1:
        return _ratio("")[1](row[0])
    return _span([entry.get("ratio", {}).get("value") for entry in row], number)


def _span(values: list[Any], show: Callable[[Any], str]) -> str:
    """Return the least and the largest value, or the only one."""
    if None in values:
        return NOTHING
    first, last = (values[0], values[0]) if len(values) == 1 else (min(values), max(values))
    return show(first) if first == last else f"{show(first)} to {show(last)}"
