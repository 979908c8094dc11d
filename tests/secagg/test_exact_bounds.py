"""The planner's bounds on the sparse graph by exact integers, from what each client's neighbours are drawn from."""

from fractions import Fraction
from itertools import product
from math import comb

import pytest

from secagg import Adversary, GraphKind, PlanError, plan
from secagg.sparse_bounds import SparseBounds

SIZES = (10, 12, 15, 20, 25, 30, 40, 50, 64, 80, 100, 128, 150, 200, 256, 300, 400, 500, 700, 1000)
CORRUPT = (0, 0.05, 0.1, 0.2, 0.33)
VANISHING = (0, 0.05, 0.1, 0.2, 1 / 3, 0.5)


def ways(of_kind: int, others: int, drawn: int, counts: range) -> int:
    """In how many ways so many of one kind are among those drawn, as many as ``counts`` allows."""
    return sum(comb(of_kind, x) * comb(others, drawn - x) for x in counts if x <= drawn)


def expected_clients(num_clients: int, of_kind: int, degree: int, counts: range) -> tuple[Fraction, Fraction]:
    """How many clients of the kind, and of the others, have so many neighbours of the kind, on average.

    The neighbours of each are drawn from the n - 1 others.
    """
    rest, total = num_clients - of_kind, comb(num_clients - 1, degree)
    inside = of_kind * ways(of_kind - 1, rest, degree, counts) if of_kind else 0
    outside = rest * ways(of_kind, rest - 1, degree, counts) if rest else 0
    return Fraction(inside, total), Fraction(outside, total)


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS], ids=lambda a: a.value)
def test_every_plan_is_within_its_bounds_exactly(adversary):
    """The probability that any client has too many or too few is at most how many do on average."""
    checked = 0
    for num_clients, corrupt, dropout in product(SIZES, CORRUPT, VANISHING):
        try:
            made = plan(
                num_clients=num_clients,
                vector_length=1,
                value_bits=1,
                corrupt=corrupt,
                dropout=dropout,
                adversary=adversary,
                graph=GraphKind.SPARSE,
            )
        except PlanError:
            continue
        degree, threshold = made.parameters.degree, made.parameters.threshold
        if made.parameters.is_complete:
            continue
        checked += 1
        lies = adversary is Adversary.SEMI_MALICIOUS
        most_corrupt = 2 * threshold - degree - 1 if lies else threshold - 1
        too_many = range(most_corrupt + 1, degree + 1)
        unsafe = expected_clients(num_clients, made.corrupt_clients, degree, too_many)
        assert sum(unsafe) * 2**41 < 1, (num_clients, corrupt, dropout)
        remaining = num_clients - made.expected_dropouts
        unworkable = expected_clients(num_clients, remaining, degree, range(threshold))
        assert sum(unworkable) * 2**20 < 1, (num_clients, corrupt, dropout)
        # As the planner has it: a client at random and its neighbours are drawn from all n.
        for of_kind, counts, found in (
            (made.corrupt_clients, too_many, unsafe),
            (remaining, range(threshold), unworkable),
        ):
            all_ways = ways(of_kind, num_clients - of_kind, degree, counts)
            assert sum(found) == Fraction(num_clients * all_ways, comb(num_clients, degree))
    assert checked > 400


def test_of_ten_clients_with_four_neighbors_one_alone_may_remain():
    """Google's planner takes degree 4 and threshold 2 here, if a third vanish; that fails too often."""
    assert expected_clients(10, 7, 4, range(2))[0] > Fraction(1, 4)
    assert expected_clients(10, 7, 6, range(2)) == (0, 0)
    for corrupt in (0, 0.05):
        made = plan(
            num_clients=10, vector_length=1, value_bits=1, corrupt=corrupt, dropout=0.33, graph=GraphKind.SPARSE
        )
        assert (made.parameters.degree, made.parameters.threshold) == (6, 2)


def test_a_threshold_above_the_last_that_works_does_not():
    """The bound is not kept by more than one: t2 is the last threshold, and not a smaller one."""
    for num_clients, dropouts, degree in ((100, 10, 22), (300, 30, 40), (1000, 50, 30)):
        bounds = SparseBounds(num_clients, 0, dropouts, num_clients - dropouts, semi_malicious=False)
        most = bounds.fewest_remaining_neighbors(degree)
        for threshold, works in ((most, True), (most + 1, False)):
            failing = sum(expected_clients(num_clients, num_clients - dropouts, degree, range(threshold)))
            assert (failing * 2**20 < 1) == works
