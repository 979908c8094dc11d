"""The plan of a very large session is the arithmetic of its unit costs."""

from __future__ import annotations

import pytest

from benchmarks.coordinator import coordination_seconds
from benchmarks.scaling_plan import Machines, UnitCosts, Work, markdown, stages

COSTS = UnitCosts(
    word_mask=1e-9, long_mask=3e-9, word_add=2e-10, whole_word=1e-10, packed_word=1e-9, agreement=5e-5, client=1e-3
)
MACHINES = Machines(count=10, cores=4, gigabits=8.0)


def test_the_arithmetic() -> None:
    """1,000 clients of which 50 vanished, degree 20: 950 self masks, and 50 x 20 x 0.95 pairwise ones."""
    work = Work.of(1000, 1_000_000, ring_bits=32, degree=20)
    assert (work.included, work.agreements, work.masks) == (950, 950, 1900)
    lines = stages(work, COSTS, MACHINES)
    core = [line[2] for line in lines]
    takes = [line[3] for line in lines]
    assert core == pytest.approx([1.0, 0.0, 950 * 0.3e-3, 950 * 5e-5, 1900 * 1e-3, 0.0])
    # 950 inputs of 4 MB at 1 GB/s into one machine; 40 results of 4 MB at the end.
    assert takes == pytest.approx([1.0, 3.8, 0.285, 0.0475 / 40, 1.9 / 40, 0.16])
    shared = stages(work, COSTS, MACHINES, sessions=10)
    assert [line[2] for line in shared] == pytest.approx([10 * value for value in core])
    assert [line[3] for line in shared] == pytest.approx([1.0, 3.8, 0.285, 0.0475 / 4, 1.9 / 4, 0.08])


def test_wider_rings_cost_words_of_64_bits_and_narrower_ones_their_packing() -> None:
    wide, narrow, whole = (Work.of(100, 1000, ring_bits=bits, degree=20) for bits in (36, 26, 32))
    assert COSTS.masks(wide) == pytest.approx(3 * COSTS.masks(whole))
    assert COSTS.inputs(wide) == pytest.approx(2 * COSTS.inputs(narrow))
    assert COSTS.inputs(narrow) == pytest.approx(4 * COSTS.inputs(whole))
    assert wide.input_bytes == 4500


def test_more_machines_speed_up_only_spread_work() -> None:
    work = Work.of(1000, 1_000_000, ring_bits=32, degree=20)
    few, many = (stages(work, COSTS, Machines(count, 4, 8.0)) for count in (10, 100))
    faster = [a[3] / b[3] for a, b in zip(few, many, strict=True)]
    assert faster == pytest.approx([1, 1, 1, 10, 10, 0.1])


def test_any_plan_can_be_printed() -> None:
    text = markdown(COSTS, MACHINES, clients=5000, values=1000, value_bits=20)
    assert "5,000 clients, 1,000 values of 20 bits" in text
    assert text.count("| **one after the other** |") == 3


def test_fronts_share_the_inputs_and_hand_on_a_vector_each() -> None:
    work = Work.of(1000, 1_000_000, ring_bits=32, degree=20)
    alone, fronted = (stages(work, COSTS, MACHINES, fronts=fronts) for fronts in (1, 5))
    assert [line[3] for line in fronted[:3]] == pytest.approx([1.0, 3.8 / 5, 0.285 / 5])
    # 5 sums of 4 MB at 1 GB/s; core time is the same.
    assert fronted[3][2:] == (0.0, pytest.approx(0.02))
    assert [line[2] for line in fronted[:3] + fronted[4:]] == pytest.approx([line[2] for line in alone])
    assert fronted[4:] == alone[3:]


def test_a_clients_cost_is_what_grows_with_the_clients_and_not_with_the_vector() -> None:
    rounds = [("AdvertiseKeys", 1.0, 2.0), ("MaskedInputCollection", 100.0, 4.0), ("masks", 1000.0, 0.0)]
    result = {"rounds": [{"name": n, "cpu_seconds": cpu, "closing_cpu_seconds": c} for n, cpu, c in rounds]}
    assert coordination_seconds(result) == 7.0
