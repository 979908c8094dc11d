"""Plan the cost of a very large session from unit costs, for docs/scaling.md.

They were measured by `make bench`, and by `make bench-coordinator` at up to 100,000 clients.

`python -m benchmarks.scaling_plan` prints the plan; its options give other plans. It runs no session: it multiplies
figures measured on one core by the counts of a planned session.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import secagg
from benchmarks.blocks import read_results
from benchmarks.coordinator import coordination_seconds
from secagg import GraphKind

DROPOUT = CORRUPT = 0.05
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """Seconds of one core.

    Attributes:
        word_mask: making and adding a mask, per word of 32 bits (`micro/masked_add`, 64 masks); `long_mask`: of 64
            bits.
        word_add: adding a vector, per word of 32 bits (`micro/masked_add` of one mask less `micro/prg_expansion`).
        whole_word, packed_word: reading a word of 32 bits, or of fewer, from a message (`micro/unpack`, 32, 26 bits).
        agreement: a key agreement (`micro/key_agreement`).
        client: the coordinator's other work for a client on the sparse graph: keys, shares, journal, closing of rounds
            and reconstruction (`benchmarks.coordinator`, its largest session).
        client_bytes: its peak memory for a client, in the same session.
    """

    word_mask: float
    long_mask: float
    word_add: float
    whole_word: float
    packed_word: float
    agreement: float
    client: float
    client_bytes: float = 0.0

    @classmethod
    def measured(cls, document: dict[str, Any], coordinator: dict[str, Any]) -> UnitCosts:
        """Return the unit costs from the results of `make bench` and of `make bench-coordinator`."""

        def seconds(group: str, name: str, **params: int) -> float:
            for entry in document["results"]:
                if (entry["group"], entry["name"]) == (group, name) and params.items() <= entry["params"].items():
                    median: float = entry["seconds"]["median"]
                    return median
            raise LookupError(f"no {group}/{name} with {params} in the results: run `make bench`")

        word_mask = seconds("micro", "masked_add", word_bits=32, masks=64) / 64 / _MILLION
        adding = seconds("micro", "masked_add", word_bits=32, masks=1) - seconds("micro", "prg_expansion")
        largest = max(coordinator["results"], key=lambda result: result["clients"])
        return cls(
            word_mask=word_mask,
            long_mask=seconds("micro", "masked_add", word_bits=64, masks=64) / 64 / _MILLION,
            word_add=adding / _MILLION,
            whole_word=seconds("micro", "unpack", ring_bits=32) / _MILLION,
            packed_word=seconds("micro", "unpack", ring_bits=26) / _MILLION,
            agreement=seconds("micro", "key_agreement"),
            client=coordination_seconds(largest) / largest["clients"],
            client_bytes=(largest["peak_bytes"] - largest["baseline_bytes"]) / largest["clients"],
        )

    def masks(self, work: Work) -> float:
        """Return core-seconds for all masks of a session."""
        return work.masks * work.values * (self.word_mask if work.word_bytes == 4 else self.long_mask)

    def agreements(self, work: Work) -> float:
        """Return core-seconds for all key agreements of a session."""
        return work.agreements * self.agreement

    def inputs(self, work: Work) -> float:
        """Return core-seconds to decode and add all masked inputs of a session."""
        unpacking = self.whole_word if work.ring_bits == 32 else self.packed_word
        return work.included * work.values * (unpacking + self.word_add) * work.word_bytes / 4


@dataclass(frozen=True, slots=True)
class Work:
    """The counts of one session's operations.

    Attributes:
        included: clients whose masked inputs arrive, which is also the number of self masks to remove.
        agreements: pairwise masks of clients that dropped out, each with its key agreement.
    """

    clients: int
    values: int
    ring_bits: int
    included: int
    agreements: int

    @property
    def masks(self) -> int:
        return self.included + self.agreements

    @property
    def input_bytes(self) -> float:
        return self.values * self.ring_bits / 8

    @property
    def word_bytes(self) -> int:
        return 4 if self.ring_bits <= 32 else 8

    @classmethod
    def of(cls, clients: int, values: int, ring_bits: int, degree: int) -> Work:
        """Return the work of a session on the sparse graph; `DROPOUT` of its clients drop out after ShareKeys."""
        vanished = int(DROPOUT * clients)
        included = clients - vanished
        return cls(clients, values, ring_bits, included, round(vanished * degree * included / clients))


@dataclass(frozen=True, slots=True)
class Machines:
    """Equal machines with cores like the measured one, and the network of each in gigabits per second."""

    count: int
    cores: int
    gigabits: float

    def transfer(self, total_bytes: float) -> float:
        """Return the seconds to send or receive bytes at one machine."""
        return total_bytes * 8 / (self.gigabits * 1e9)


Line = tuple[str, str, float, float]
"""A stage: its name, count, core-seconds, and seconds."""


def stages(work: Work, costs: UnitCosts, machines: Machines, *, sessions: int = 1, fronts: int = 1) -> list[Line]:
    """Plan one session whose masks all machines recover, or one session on each machine.

    ``work`` is that of one session. For several sessions, core-seconds are those of all, and the sums are added at the
    end. With several fronts, the inputs of one session come to as many machines.
    """
    one = sessions == 1
    cores = machines.cores * (machines.count if one else 1)
    one_core, all_cores = ("on one core", "over all cores") if one else ("on one core each", "on all cores of each")
    arriving = work.included * work.input_bytes
    # The results of the parts of one session, or the sums of the sessions.
    results, result_bytes = (cores, work.values * work.word_bytes) if one else (sessions, work.values * 8)

    vector_bytes = work.values * work.word_bytes
    partial_sums: list[Line] = (
        [("sums of the fronts into one machine", f"{fronts} x {vector_bytes / 1e6:.0f} MB", 0.0,
          machines.transfer(fronts * vector_bytes))]
        if fronts > 1
        else []
    )  # fmt: skip

    def computed(what: str, number: str, seconds: float, on: int) -> Line:
        return what, number, seconds * sessions, seconds / on

    return [
        computed(
            f"keys, shares, reconstruction, {one_core}", f"{work.clients:,} clients", work.clients * costs.client, 1
        ),
        (
            f"masked inputs into {'one' if one and fronts == 1 else 'each'} machine",
            f"{arriving / fronts / 1e12:.2g} TB",
            0.0,
            machines.transfer(arriving / fronts),
        ),
        computed(
            f"adding them, {one_core if fronts == 1 else 'on one core of each'}",
            f"{work.included:,} vectors",
            costs.inputs(work),
            fronts,
        ),
        *partial_sums,
        computed(f"key agreements, {all_cores}", f"{work.agreements:,}", costs.agreements(work), cores),
        computed(f"masks, {all_cores}", f"{work.masks:,} x {work.values:,}", costs.masks(work), cores),
        (
            f"{'results of the parts' if one else 'sums'} into one machine",
            f"{results} x {result_bytes / 1e6:.0f} MB",
            0.0,
            machines.transfer(results * result_bytes),
        ),
    ]


def planned(clients: int, values: int, value_bits: int) -> Work:
    """Return the work of the planned session."""
    params = secagg.plan(
        num_clients=clients,
        vector_length=values,
        value_bits=value_bits,
        dropout=DROPOUT,
        corrupt=CORRUPT,
        graph=GraphKind.SPARSE,
    ).parameters
    return Work.of(clients, values, params.ring_bits, params.degree)


def markdown(
    costs: UnitCosts, machines: Machines, *, clients: int = _MILLION, values: int = 10_000_000, value_bits: int = 12
) -> str:
    """Return the unit costs and both plans as Markdown."""
    whole = planned(clients, values, value_bits)
    share = planned(-(-clients // machines.count), values, value_bits)
    units = [
        ("a mask made and added, a million words of 32 bits", costs.word_mask * _MILLION * 1e3, "ms"),
        ("the same of 64 bits", costs.long_mask * _MILLION * 1e3, "ms"),
        ("a masked input decoded, a million words of 32 bits", costs.whole_word * _MILLION * 1e3, "ms"),
        ("the same of fewer bits", costs.packed_word * _MILLION * 1e3, "ms"),
        ("a vector added, a million words of 32 bits", costs.word_add * _MILLION * 1e3, "ms"),
        ("a key agreement", costs.agreement * 1e6, "µs"),
        ("keys, shares, journal and reconstruction, a client at the coordinator", costs.client * 1e3, "ms"),
    ]
    memory = f"Memory of the coordinator: {costs.client_bytes / 1e3:.1f} kB a client, so {{:.2g}} GB."
    title = f"{clients:,} clients, {values:,} values of {value_bits} bits, {machines.count} machines of "
    title += f"{machines.cores} cores with {machines.gigabits:g} Gbit/s"
    return "\n\n".join(
        [
            "\n".join(["| unit, on one core | |", "| :--- | ---: |", *(f"| {n} | {v:.3g} {u} |" for n, v, u in units)]),
            f"**{title}: one session, one process that takes in all** (ring of {whole.ring_bits} bits)",
            _table(stages(whole, costs, machines)),
            f"**The same with a front on each machine**. {memory.format(clients * costs.client_bytes / 1e9)}",
            _table(stages(whole, costs, machines, fronts=machines.count)),
            f"**The same as {machines.count} sessions of {share.clients:,}, one a machine** "
            f"(ring of {share.ring_bits} bits). {memory.format(share.clients * costs.client_bytes / 1e9)}",
            _table(stages(share, costs, machines, sessions=machines.count)),
        ]
    )


def _table(lines: list[Line]) -> str:
    core, wall = sum(line[2] for line in lines), sum(line[3] for line in lines)
    rows = [
        f"| {what} | {number} | {_duration(seconds) if seconds else '–'} | {_duration(takes)} |"
        for what, number, seconds, takes in lines
    ]
    head = ["| stage | how many | core time | takes |", "| :--- | ---: | ---: | ---: |"]
    return "\n".join([*head, *rows, f"| **one after the other** | | {_duration(core)} | {_duration(wall)} |"])


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def table(document: dict[str, Any]) -> str:
    """Return the plan of docs/scaling.md, from the results of `make bench`."""
    return markdown(
        UnitCosts.measured(document, read_results("coordinator")), Machines(count=100, cores=2, gigabits=10.0)
    )


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=_MILLION)
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--value-bits", type=int, default=12)
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--cores", type=int, default=2, help="cores of each machine")
    parser.add_argument("--gigabits", type=float, default=10.0, help="gigabits per second, in and out of each")
    options = parser.parse_args()
    costs = UnitCosts.measured(read_results("full"), read_results("coordinator"))
    machines = Machines(options.machines, options.cores, options.gigabits)
    print(markdown(costs, machines, clients=options.clients, values=options.values, value_bits=options.value_bits))


if __name__ == "__main__":
    main()
