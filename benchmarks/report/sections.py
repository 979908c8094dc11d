"""What the report says, group by group: tables, figures, and what is counted."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.report import group_tables
from benchmarks.report.figures import ratios, scaling
from benchmarks.report.load import of_group
from benchmarks.report.tables import Table, origins
from benchmarks.results import Document, Entry


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: its file's name, what it shows in words, and how it is drawn."""

    name: str
    alt: str
    draw: Callable[[Document], Figure | None]


@dataclass(frozen=True, slots=True)
class Section:
    """A group of benchmarks.

    Attributes:
        group: its name in the results.
        title, counted: the heading, and what is counted.
        make_tables: from the group's entries.
        pictures: its figures.
    """

    group: str
    title: str
    counted: str
    make_tables: Callable[[list[Entry]], list[Table]]
    pictures: tuple[Picture, ...]

    def tables(self, document: Document) -> list[Table]:
        """Nothing where the group was not run."""
        entries = of_group(document, self.group)
        return self.make_tables(entries) if entries else []

    def footnotes(self, document: Document) -> tuple[str, ...]:
        """What the marks in the tables say."""
        return origins(of_group(document, self.group))


_FIGURE8 = (
    "The setting of Bonawitz et al. (CCS 2017), figure 8: complete graph, 100,000 entries of 24 bits, clients vanish "
    "after ShareKeys and before MaskedInputCollection; one core, real bytes, decoding and encoding included. In each "
    "cell: milliseconds here / milliseconds published. The paper's machine was another one (Java, Xeon E5-1650 v3), so "
    "the speed-up is of program and machine together."
)
_COMMUNICATION = (
    "All bytes that one client sends and receives, session ids, flags and frames included, over the bytes of its "
    "16-bit values in the clear. These figures are the same on every machine."
)
_PEERS = (
    "The same work on the same machine in one run: all clients and the server, one after the other in one process, no "
    "network. secagg runs directly before and directly after the peer, and the slower of the two counts. Both sides' "
    "sums are checked. The peers run in processes and an environment of their own."
)
_SCALING = (
    "`secagg simulate` in a process of its own for each point: real keys, masks and bytes of all clients and the "
    "server; 5% of the clients vanish after ShareKeys; on the sparse graph another 5% may work together with an "
    "honest-but-curious server. Times are of computing, the making of inputs not counted; a client's figures are "
    "medians; memory is the most that the process held, all clients together, without the children that a long "
    "recovery is shared with. Every sum is exact, or the benchmark fails."
)
_MALICIOUS = (
    "The same session twice, at the same time in two processes on one core each: against a server that only looks, and "
    "against one that may lie at any time, with identities, signed keys, ConsistencyCheck. Complete graph, 5% of the "
    "clients vanish, the threshold is the same. A client's figures are medians; the server's bytes are all clients'."
)
_NETWORK = (
    "Server and clients in three processes on loopback, TLS 1.3 with certificates on both sides, beside "
    "`transport.run_session` in one process; on all cores, and all on one and the same. Counted: from the word "
    "to begin, with the server listening, keys loaded and inputs made, until the server has its sum and every client "
    "knows of the end; connecting and handshakes included. A tenth of the clients vanish when their input is due: over "
    "TLS they come back without their state, which the server takes for their leaving, so that no deadline is waited "
    "for. Every sum is exact, or the benchmark fails."
)
_MICRO = (
    "Each piece of the library beside the least that its work could cost, timed by turns: the ratio is the result, "
    "seconds drift with the machine."
)

SECTIONS = (
    Section(
        "figure8",
        "The paper's figure 8",
        _FIGURE8,
        group_tables.figure8,
        (Picture("figure8", "Speed-up over the published times, by row", ratios.figure8),),
    ),
    Section("communication", "Communication", _COMMUNICATION, group_tables.communication, ()),
    Section(
        "peers",
        "Peers",
        _PEERS,
        group_tables.peers,
        (Picture("peers", "Seconds of each peer and of secagg", ratios.peers),),
    ),
    Section(
        "scaling",
        "Scaling",
        _SCALING,
        group_tables.scaling,
        (
            Picture("scaling-clients", "Time, memory and a client's part, by number of clients", scaling.with_clients),
            Picture("scaling-length", "Time and memory, by length of the vector", scaling.with_length),
        ),
    ),
    Section("malicious", "Against a server that lies", _MALICIOUS, group_tables.malicious, ()),
    Section("network", "Between processes", _NETWORK, group_tables.network, ()),
    Section(
        "micro",
        "Pieces",
        _MICRO,
        group_tables.micro,
        (Picture("micro", "Ratios to the raw primitives", ratios.micro),),
    ),
)
