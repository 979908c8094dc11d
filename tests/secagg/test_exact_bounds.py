"""The planner's bounds on the sparse graph, checked with exact integers over the draws of each client's neighbours."""

from collections.abc import Iterator
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
    """Return in how many ways a number of one kind is among those drawn, for each number that ``counts`` allows."""
    return sum(comb(of_kind, x) * comb(others, drawn - x) for x in counts if x <= drawn)


class DrawnOfKind:
    """The number of k-subsets of n with more than t of a kind, in exact integers, from k = t = 0 on in steps of one."""

    def __init__(self, num_clients: int, of_kind: int) -> None:
        self.num_clients, self.of_kind = num_clients, of_kind
        self.degree, self.most = 0, 0
        self.above, self.exactly, self.all = 0, 1, 1

    def draw_one_more(self) -> None:
        """Step from k to k + 1: a subset has more than t of the kind if it had before, or had t and drew one more."""
        left, kind_left = self.num_clients - self.degree, self.of_kind - self.most
        others_drawn, others_left = self.degree - self.most, left - kind_left
        self.above = (self.above * left + self.exactly * kind_left) // (self.degree + 1)
        self.exactly = self.exactly * others_left // (others_drawn + 1)
        self.all = self.all * left // (self.degree + 1)
        self.degree += 1

    def allow_one_more(self) -> None:
        """Step from t to t + 1."""
        others_drawn, kind_left = self.degree - self.most, self.of_kind - self.most
        others = self.num_clients - self.of_kind
        if self.exactly:
            self.exactly = self.exactly * kind_left * others_drawn // ((self.most + 1) * (others - others_drawn + 1))
        else:
            # More were drawn than there are others.
            self.exactly = comb(self.of_kind, self.most + 1) * comb(others, others_drawn - 1)
        self.above -= self.exactly
        self.most += 1


def exact_thresholds(num_clients: int, corrupt: int, dropouts: int, *, lies: bool) -> Iterator[tuple[int, int | None]]:
    """Return each even degree below n - 1 with its threshold or None, decided by integers alone.

    No degree is skipped, and nothing is assumed to be monotone except sums of terms that are not negative.
    """
    missing = corrupt + dropouts
    bad, staying = DrawnOfKind(num_clients, corrupt), DrawnOfKind(num_clients, num_clients - dropouts)
    all_missing = 1
    for degree in range(1, num_clients - 1):
        all_missing = all_missing * max(missing - degree + 1, 0) // degree
        bad.draw_one_more()
        while num_clients * bad.above << 41 >= bad.all:
            bad.allow_one_more()
        # This is the smallest one that works.
        assert bad.most == 0 or num_clients * (bad.above + bad.exactly) << 41 >= bad.all
        staying.draw_one_more()
        while num_clients * (staying.all - staying.above) << 20 < staying.all:
            staying.allow_one_more()
        assert num_clients * (staying.all - staying.above - staying.exactly) << 20 < staying.all
        if degree % 2:
            continue
        connected = num_clients * (num_clients - degree - 1) * all_missing << 41 < 2 * bad.all
        # ceil((t1 + k - 1.25) / 2)
        most_bad = -((5 - 4 * (bad.most + degree)) // 8) if lies else bad.most
        threshold = max(most_bad + 1, 2)
        yield degree, threshold if connected and threshold <= staying.most else None


def exact_smallest(*arguments: int, lies: bool) -> tuple[int, int] | None:
    return next(((degree, t) for degree, t in exact_thresholds(*arguments, lies=lies) if t is not None), None)


def expected_clients(num_clients: int, of_kind: int, degree: int, counts: range) -> tuple[Fraction, Fraction]:
    """Return the average numbers of clients, of the kind and others, with ``counts`` neighbours of the kind.

    The neighbours of each are drawn from the n - 1 others.
    """
    rest, total = num_clients - of_kind, comb(num_clients - 1, degree)
    inside = of_kind * ways(of_kind - 1, rest, degree, counts) if of_kind else 0
    outside = rest * ways(of_kind, rest - 1, degree, counts) if rest else 0
    return Fraction(inside, total), Fraction(outside, total)


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS], ids=lambda a: a.value)
def test_every_plan_is_within_its_bounds_exactly(adversary):
    """The probability that any client has too many or too few is at most the average number of such clients."""
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
        # As in the planner: a client at random and its neighbours are drawn from all n.
        for of_kind, counts, found in (
            (made.corrupt_clients, too_many, unsafe),
            (remaining, range(threshold), unworkable),
        ):
            all_ways = ways(of_kind, num_clients - of_kind, degree, counts)
            assert sum(found) == Fraction(num_clients * all_ways, comb(num_clients, degree))
    assert checked > 400


def test_with_ten_clients_and_four_neighbors_one_alone_may_remain():
    """Google's planner takes degree 4 and threshold 2 here, if a third vanish; that fails too often."""
    assert expected_clients(10, 7, 4, range(2))[0] > Fraction(1, 4)
    assert expected_clients(10, 7, 6, range(2)) == (0, 0)
    for corrupt in (0, 0.05):
        made = plan(
            num_clients=10, vector_length=1, value_bits=1, corrupt=corrupt, dropout=0.33, graph=GraphKind.SPARSE
        )
        assert (made.parameters.degree, made.parameters.threshold) == (6, 2)


def test_a_threshold_above_the_last_that_works_does_not():
    """One more than the threshold breaks the bound: t2 is the last threshold, and not a smaller one."""
    for num_clients, dropouts, degree in ((100, 10, 22), (300, 30, 40), (1000, 50, 30)):
        bounds = SparseBounds(num_clients, 0, dropouts, num_clients - dropouts, semi_malicious=False)
        most = bounds.fewest_remaining_neighbors(degree)
        for threshold, works in ((most, True), (most + 1, False)):
            failing = sum(expected_clients(num_clients, num_clients - dropouts, degree, range(threshold)))
            assert (failing * 2**20 < 1) == works


def test_the_reference_counts_subsets():
    """The steps of the reference give the binomial coefficients."""
    counted = DrawnOfKind(30, 11)
    for step in range(24):
        (counted.allow_one_more if step % 3 == 2 else counted.draw_one_more)()
        k, t = counted.degree, counted.most
        assert counted.all == comb(30, k)
        assert counted.exactly == comb(11, t) * comb(19, k - t)
        assert counted.above == ways(11, 19, k, range(t + 1, 12))


@pytest.mark.parametrize("lies", [False, True], ids=["curious", "lies"])
def test_the_smallest_degree_is_the_smallest_by_exact_integers(lies):
    """The search covers all even degrees, and not only those that the planner's search tries."""
    found = 0
    for num_clients, corrupt, dropout in product(SIZES, CORRUPT, VANISHING):
        bad, gone = int(corrupt * num_clients), int(dropout * num_clients)
        bounds = SparseBounds(num_clients, bad, gone, num_clients - gone, semi_malicious=lies)
        smallest = exact_smallest(num_clients, bad, gone, lies=lies)
        assert bounds.smallest() == smallest, (num_clients, corrupt, dropout)
        found += smallest is not None
    assert found > 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_clients", "corrupt", "dropouts", "lies", "expected"),
    [
        (10_000, 3_000, 3_000, True, (4822, 3230)),
        (100_000, 30_000, 30_000, True, (9388, 6286)),
        (10_000, 3_300, 1_000, True, None),
        (10_000, 3_300, 3_300, False, None),
        (3_000, 900, 900, True, None),
        (50_000, 0, 24_000, True, None),
    ],
)
def test_the_smallest_degree_of_many_clients_is_the_smallest_by_exact_integers(
    num_clients, corrupt, dropouts, lies, expected
):
    smallest = exact_smallest(num_clients, corrupt, dropouts, lies=lies)
    assert smallest is not None
    assert expected in (None, smallest)
    bounds = SparseBounds(num_clients, corrupt, dropouts, num_clients - dropouts, semi_malicious=lies)
    assert bounds.smallest() == smallest


def test_fitting_and_unfitting_degrees_alternate():
    """So no search may assume that they are monotone; each degree is decided as by integers."""
    bounds = SparseBounds(10_000, 3_000, 3_000, 7_000, semi_malicious=True)
    exact = {k: t for k, t in exact_thresholds(10_000, 3_000, 3_000, lies=True) if 4700 <= k < 4900}
    assert [k for k, t in exact.items() if t is not None and exact.get(k + 2, t) is None]
    assert {k: bounds.threshold(k) for k in exact} == exact
