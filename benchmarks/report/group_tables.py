"""The tables of each group."""

from math import log

from benchmarks.report import formatting, tables
from benchmarks.report.fits import LARGE, log_fit
from benchmarks.report.load import by_size
from benchmarks.report.points import key_bytes
from benchmarks.report.tables import Column, Table
from benchmarks.results import Entry

_NOT_COMMUNICATED = frozenset({"seconds", "neighbors", "threshold", "clear_bytes", "bytes_in_the_clear"})


def figure8(entries: list[Entry]) -> list[Table]:
    """The paper's rows, ours and published in each cell; then single expansions."""
    rows = [entry for entry in entries if isinstance(entry.get("milliseconds"), dict)]
    found = []
    if rows:
        rounds = list(rows[0]["milliseconds"])
        columns: list[Column] = [
            ("role", lambda entry: str(entry["name"])),
            ("clients", lambda entry: f"{entry['params']['clients']:,}"),
            ("vanish", lambda entry: f"{entry['params']['dropout']:.0%}"),
            *(_beside_published(name) for name in rounds),
        ]
        columns += tables.ratio_columns(rows)
        found.append(tables.of_columns("Milliseconds here / published", rows, columns, tables.ratio_notes(rows)))
    if others := [entry for entry in entries if entry not in rows and entry["name"] != "cohort"]:
        found.append(tables.generic("One mask of a vanished client, expanded and taken off", others))
    return found


def communication(entries: list[Entry]) -> list[Table]:
    """Without the seconds that counting took, and what follows from the rest."""
    return [tables.generic("", entries, _NOT_COMMUNICATED)]


def micro(entries: list[Entry]) -> list[Table]:
    """A table for those that have the same parameters."""
    alike: dict[tuple[str, ...], list[Entry]] = {}
    names = list(dict.fromkeys(entry["name"] for entry in entries))
    for entry in sorted(
        entries, key=lambda entry: (names.index(entry["name"]), *map(_order, entry["params"].values()))
    ):
        alike.setdefault(tuple(entry["params"]), []).append(entry)
    return [tables.generic("", group) for group in alike.values()]


def _order(item: object) -> tuple[float, str]:
    """Numbers by size, others by name."""
    return (float(item), "") if isinstance(item, int | float) else (0.0, str(item))


def peers(entries: list[Entry]) -> list[Table]:
    """secagg and peer side by side; then Flower's stages, where its time goes."""
    columns: list[Column] = [
        ("peer", lambda entry: f"{entry['peer']} {entry['peer_version']}"),
        ("work", lambda entry: str(entry["work"])),
        ("clients", lambda entry: f"{entry['params']['clients']:,}"),
        ("vanish", lambda entry: formatting.value("", entry["params"].get("vanish", 0))),
        tables.plain("peer_seconds", "the peer"),
        tables.plain("secagg_seconds", "secagg"),
        *tables.ratio_columns(entries),
    ]
    found = [tables.of_columns("", entries, columns, tables.ratio_notes(entries))]
    if staged := [entry for entry in entries if entry.get("peer_stages")]:
        stages = list(staged[0]["peer_stages"])
        columns = [
            ("clients", lambda entry: f"{entry['params']['clients']:,}"),
            *(_stage(name) for name in stages),
            tables.plain("peer_max_abs_error", "the peer's error of the mean"),
            tables.plain("max_abs_error", "secagg's error of the mean"),
        ]
        plain = [{key: item for key, item in entry.items() if key != "note"} for entry in staged]
        title = f"Where {staged[0]['peer']}'s time goes, and how far both means are from float arithmetic"
        found.append(tables.of_columns(title, plain, columns))
    return found


def scaling(entries: list[Entry]) -> list[Table]:
    """The curves, how they grow, and the planner's degrees."""
    found = []
    sized = sorted((entry for entry in entries if entry["name"] in ("clients", "length")), key=by_size)
    curve = [entry for entry in sized if entry["name"] == "clients"]
    if curve:
        found.append(_points("More clients, sparse graph", curve))
    if len(curve) > 2:
        found.append(_growth(curve))
    if over_length := [entry for entry in sized if entry["name"] == "length"]:
        found.append(_points("Longer vectors, complete graph", over_length))
    for entry in entries:
        if entry["name"] == "degree":
            found.append(_degrees(entry))
    return found


def malicious(entries: list[Entry]) -> list[Table]:
    """Each role's part, beside what it is against an honest server."""
    return [tables.generic("", [entry for entry in entries if entry["name"] in ("client", "server")])]


def network(entries: list[Entry]) -> list[Table]:
    """Sessions beside memory; then what the server holds."""
    titles = {"session": "Over TLS beside in memory", "memory_of_the_server": "The server's memory"}
    rows = {name: [entry for entry in entries if entry["name"] == name] for name in titles}
    return [tables.generic(titles[name], found) for name, found in rows.items() if found]


def _points(title: str, entries: list[Entry]) -> Table:
    columns: list[Column] = [
        ("clients", lambda entry: f"{entry['params']['clients']:,}"),
        ("values", lambda entry: f"{entry['params']['length']:,}"),
        ("degree", lambda entry: f"{entry['degree']:,}"),
        ("included", lambda entry: f"{entry['included']:,}"),
        ("exact", lambda entry: formatting.value("", entry["exact"])),
        ("all together", tables.time),
        tables.plain("server_seconds", "server"),
        tables.plain("client_seconds", "a client"),
        tables.plain("client_bytes_up", "it sends"),
        tables.plain("client_bytes_down", "it receives"),
        ("over the clear", lambda entry: formatting.factor(entry["ratio"]["value"])),
        tables.plain("peak_rss_bytes", "peak memory"),
    ]
    return tables.of_columns(title, entries, columns)


def _growth(curve: list[Entry]) -> Table:
    """Fits of a + b ln n, and the power of n that the same points would have."""
    clients = [entry["params"]["clients"] for entry in curve]
    server = [entry["server_seconds"] / entry["params"]["clients"] for entry in curve]
    quantities = (
        ("neighbours", "", [entry["degree"] for entry in curve]),
        ("a client's time", "seconds", [entry["client_seconds"] for entry in curve]),
        ("a client's time per neighbour", "seconds", [entry["client_seconds"] / entry["degree"] for entry in curve]),
        ("a client's bytes besides its vector", "bytes", [key_bytes(entry) for entry in curve]),
        ("the server's time per client", "seconds", server),
    )
    rows = []
    for name, unit, values in quantities:
        fit = log_fit(clients, values)
        if fit is not None:
            rows.append(
                (
                    name,
                    formatting.value(unit, values[0]),
                    formatting.value(unit, values[-1]),
                    formatting.factor(values[-1] / values[0]),
                    f"{fit.r_squared:.2f}",
                    f"n^{fit.exponent:.2f}",
                )
            )
    first, last = clients[0], clients[-1]
    columns = ("of each client", f"at {first:,}", f"at {last:,}", "growth", "R² of a + b ln n", "as a power of n")
    note = f"From {first:,} to {last:,} clients n grows {last / first:,.0f}×, ln n {_log_growth(first, last):.2f}×."
    return Table("How a client's part grows", columns, tuple(rows), (note,))


def _log_growth(first: int, last: int) -> float:
    return log(last) / log(first)


def _degrees(entry: Entry) -> Table:
    rows = tuple(
        (
            f"{point['clients']:,}",
            f"{point['degree']:,}",
            f"{point['threshold']:,}",
            f"{point['degree'] / log(point['clients']):.2f}",
        )
        for point in entry["curve"]
    )
    large = [point for point in entry["curve"] if point["clients"] >= LARGE]
    fit = log_fit([point["clients"] for point in large], [point["degree"] for point in large])
    notes = (f"From {LARGE:,} clients on: {fit}, R² {fit.r_squared:.2f}.",) if fit else ()
    return Table("Neighbours as planned", ("clients", "degree", "threshold", "degree / ln n"), rows, notes)


def _beside_published(name: str) -> Column:
    def cell(entry: Entry) -> str:
        ours = formatting.number(entry["milliseconds"][name])
        published = entry.get("published_milliseconds")
        return f"{ours} / {published[name]:,}" if published else ours

    return name, cell


def _stage(name: str) -> Column:
    return name.removesuffix("_stage").replace("_", " "), lambda entry: formatting.duration(entry["peer_stages"][name])
