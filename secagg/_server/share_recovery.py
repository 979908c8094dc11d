"""From the shares that came in to the secrets: wrong shares are found, done without, and their senders named.

A secret can be told from a wrong one (by its commitment, or its public key), so that no wrong one is ever used.  Shares
that were not needed are checked too, all of an owner's by one random combination, so that who sent a wrong one is
known even where it did no harm.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secagg.algebra import reed_solomon, shamir
from secagg.algebra.field import PRIME, FieldArray, matmul, multiply, reduce
from secagg.primitives.entropy import EntropySource
from secagg.sharing import LIMBS, ShareArray, limbs_to_seed, uniform_field_elements

Verifier = Callable[[int, bytes], bool]
"""Whether these 16 bytes are the secret of this owner."""

# A wrong share passes one random combination with probability 1/p; twice, 2^-32.
_REPETITIONS = 2

# The most owners that are looked at together: bounds the temporaries.
_OWNERS = 256

# How often the owners that are left are looked at again because more holders are suspected. Liars can arrange that each
# look shows only a few more of them, so there is a limit. Without that two or three looks are enough.
_LOOKS = 8


@dataclass(slots=True, repr=False)
class RecoveredSecrets:
    """What the shares gave.

    Attributes:
        seeds: the secret of each owner that has one, by its row; None if its shares do not give it.
        wrong: (row of the owner, place of the holder) of each share that is known to be wrong.
        inconsistent: rows of owners whose shares agree with each other, but not with what the owner advertised, and
            are so many that it would take more holders to make that up than wrong parties otherwise.
    """

    seeds: dict[int, bytes | None] = field(default_factory=dict)
    wrong: list[tuple[int, int]] = field(default_factory=list)
    inconsistent: list[int] = field(default_factory=list)


def recover_secrets(
    rows: npt.NDArray[np.intp],
    holders: npt.NDArray[np.intp],
    held: npt.NDArray[np.bool_],
    shares: ShareArray,
    threshold: int,
    verify: Verifier,
    entropy: EntropySource,
) -> RecoveredSecrets:
    """The secrets of some owners.

    Args:
        rows: whose secrets, indices into ``held`` and ``shares``; each has at least ``threshold`` shares.
        holders: who stands in each place, shape (owners, places): a holder that lied once is suspected everywhere.
        held: which shares came in, shape (owners, places).
        shares: shape (owners, places, LIMBS); what is not held is ignored.
        threshold: t.
        verify: tells a secret from a wrong one.
        entropy: for combinations that no sender of shares can foresee.
    """
    return _Recovery(holders, held, shares, threshold, verify, entropy).of(rows)


class _Recovery:
    """The work of `recover_secrets`: all owners, in blocks, and those that are left again while more are suspected.

    An owner is decoded once with all of its shares; and at each look, if more of its holders are suspected than at the
    last one, without those who lied at all and without those who lied more often than not: 2 * _LOOKS + 1 times at
    most.
    """

    def __init__(
        self,
        holders: npt.NDArray[np.intp],
        held: npt.NDArray[np.bool_],
        shares: ShareArray,
        threshold: int,
        verify: Verifier,
        entropy: EntropySource,
    ) -> None:
        self._holders, self._held, self._shares = holders, held, shares
        self._threshold, self._verify, self._entropy = threshold, verify, entropy
        # How many shares of each holder were found wrong, and right.
        self._lied, self._told_the_truth = np.zeros((2, int(holders.max(initial=0)) + 1), dtype=np.intp)
        # The shares with which each owner was decoded last.
        self._decoded = np.zeros_like(held)
        # Of all its shares the wrong ones, for each owner that was decoded with all of them; None if they are too many.
        self._wrong_of_all: dict[int, npt.NDArray[np.intp] | None] = {}
        self._result = RecoveredSecrets()

    def of(self, rows: npt.NDArray[np.intp]) -> RecoveredSecrets:
        """The secrets of these owners."""
        result, pending = self._result, rows
        for _ in range(_LOOKS):
            known = np.count_nonzero(self._lied)
            pending = np.concatenate([pending[:0], *(self._unsettled(block) for block in _blocks(pending))])
            if np.count_nonzero(self._lied) == known:
                break
        for row in pending.tolist():
            result.seeds[row] = None
            bad = self._wrong_of_all[row]
            # That the owner dealt another secret, and those in the bad places changed their shares, takes 1 + bad
            # parties. That the others made up a polynomial takes r - bad - t + 1: who is named must be the fewer.
            if bad is not None and 2 * len(bad) < np.count_nonzero(self._held[row]) - self._threshold:
                result.inconsistent.append(row)
                result.wrong += [(row, place) for place in bad.tolist()]
        result.wrong.sort()
        result.inconsistent.sort()
        return result

    def _unsettled(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Settle what can be settled now of these owners; gives the others."""
        usable = self._without(rows, self._lied > 0)
        changed = np.any(usable != self._decoded[rows], axis=1)
        unchanged, rows, usable = rows[~changed], rows[changed], usable[changed]
        settled = _agree(usable, self._shares[rows], self._threshold, self._entropy)
        settled[settled] = self._settle(rows[settled], usable[settled], np.zeros_like(usable[settled]))
        rows, usable = rows[~settled], usable[~settled]
        self._decoded[rows] = usable
        # Leaving out a holder helps where its share is wrong, and does harm where it is right.
        rows = self._correct(rows, usable, np.ones(len(rows), dtype=bool))
        usable = self._without(rows, self._lied > self._told_the_truth)
        rows = self._correct(rows, usable, np.any(usable != self._decoded[rows], axis=1))
        is_new = np.array([row not in self._wrong_of_all for row in rows.tolist()], dtype=bool)
        rows = self._correct(rows, self._held[rows], is_new)
        return np.concatenate((unchanged, rows))

    def _without(self, rows: npt.NDArray[np.intp], suspects: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The shares of these owners that are not the suspects'; of owners that cannot do without those, all."""
        usable: npt.NDArray[np.bool_] = self._held[rows] & ~suspects[self._holders[rows]]
        too_few = np.count_nonzero(usable, axis=1) < self._threshold
        usable[too_few] = self._held[rows[too_few]]
        return usable

    def _correct(
        self, rows: npt.NDArray[np.intp], usable: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.intp]:
        """Settle those of the asked owners whose usable shares can be decoded; gives all others."""
        owners, usable = rows[asked], usable[asked]
        bad, found = self._decode(owners, usable)
        for index in np.flatnonzero(np.all(usable == self._held[owners], axis=1)).tolist():
            self._wrong_of_all[int(owners[index])] = np.flatnonzero(bad[index]) if found[index] else None
        found[found] = self._settle(owners[found], usable[found], bad[found])
        return np.concatenate((rows[~asked], owners[~found]))

    def _decode(
        self, rows: npt.NDArray[np.intp], usable: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """The usable shares that are not on the polynomial of all others; and of which owners, if not too many."""
        points = np.arange(1, usable.shape[1] + 1, dtype=np.uint64)
        shares, spare = self._shares[rows], np.count_nonzero(usable, axis=1) - self._threshold
        bad, found, left = np.zeros_like(usable), np.zeros(len(rows), dtype=bool), np.arange(len(rows))
        # The limbs of a share are wrong together. An error that is none in sum limb_i alpha^i is a root of a polynomial
        # of a lower degree than LIMBS: at so many alphas each error is seen at least once, and nearly always at the
        # first, which nobody could foresee.
        first = int(uniform_field_elements(1, self._entropy)[0])
        for alpha in range(first, first + LIMBS):
            if not left.size:
                break
            powers = np.array([pow(alpha, exponent, PRIME) for exponent in range(LIMBS)], dtype=np.uint64)
            mixed = _mixed(shares[left], powers[:, None])[:, :, 0]
            errors, told = reed_solomon.find_errors(points, usable[left], mixed, self._threshold)
            bad[left] |= errors
            left = left[told & (2 * np.count_nonzero(bad[left], axis=1) <= spare[left])]
            agree = _agree(usable[left] & ~bad[left], shares[left], self._threshold, self._entropy)
            found[left[agree]] = True
            left = left[~agree]
        return bad, found

    def _settle(
        self, rows: npt.NDArray[np.intp], usable: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Take the secrets of those owners whose usable shares but the bad ones give the right one; gives which.

        What the decoder takes for errors counts only then: with too many wrong shares it can arrive at another
        polynomial, and at honest holders.
        """
        right = np.zeros(len(rows), dtype=bool)
        if not rows.size:
            return right
        base = _first(usable & ~bad, self._threshold)
        seeds = _reconstruct(base, self._shares[rows])
        for index, (row, seed) in enumerate(zip(rows.tolist(), seeds, strict=True)):
            if seed is not None and self._verify(row, seed):
                self._result.seeds[row], right[index] = seed, True
        rows, base, usable, wrong = rows[right], base[right], usable[right], bad[right]
        wrong |= _differing(base, self._held[rows] & ~usable, self._shares[rows])
        self._result.wrong += [(int(rows[index]), place) for index, place in np.argwhere(wrong).tolist()]
        holders = self._holders[rows]
        self._lied += np.bincount(holders[wrong], minlength=len(self._lied))
        self._told_the_truth += np.bincount(holders[self._held[rows] & ~wrong], minlength=len(self._lied))
        return right


def explain(disputes: Sequence[tuple[int, int]] | npt.NDArray[np.int64]) -> list[int]:
    """As few parties as can be found, greedily, that have a part in every dispute; sorted.

    The first party of a dispute is named where it could be either.
    """
    parties, ends = np.unique(np.array(disputes, dtype=np.int64).reshape(-1, 2), return_inverse=True)
    ends = ends.reshape(-1, 2)
    _, once = np.unique(ends[:, 0] * len(parties) + ends[:, 1], return_index=True)
    ends = ends[once]
    # By how many disputes a party has a part in, then by how many it is the first of; of equals the first is taken.
    per_part, degrees = len(ends) + 1, np.bincount(ends.ravel(), minlength=len(parties))
    score = per_part * degrees + np.bincount(ends[:, 0], minlength=len(parties))
    by_party, bounds = np.argsort(ends, axis=None, kind="stable") // 2, np.cumsum(degrees)
    open_ = np.ones(len(ends), dtype=bool)
    named: list[int] = []
    while score.size and score[worst := int(score.argmax())]:
        closed = by_party[bounds[worst] - degrees[worst] : bounds[worst]]
        closed = np.unique(closed[open_[closed]])
        open_[closed] = False
        np.subtract.at(score, ends[closed], per_part)
        np.subtract.at(score, ends[closed, 0], 1)
        named.append(int(parties[worst]))
    return sorted(named)


def _blocks(rows: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    """The first are small: who lies mostly lies about many, and whom these show to lie is left out for the others."""
    start, size = 0, 4
    while start < len(rows):
        yield rows[start : start + size]
        start, size = start + size, min(8 * size, _OWNERS)


def _first(usable: npt.NDArray[np.bool_], threshold: int) -> npt.NDArray[np.bool_]:
    """The first ``threshold`` of each row."""
    chosen: npt.NDArray[np.bool_] = usable & (np.cumsum(usable, axis=1) <= threshold)
    return chosen


def _reconstruct(base: npt.NDArray[np.bool_], shares: ShareArray) -> list[bytes | None]:
    """Each owner's seed from its base; one matrix product for all owners with the same one."""
    patterns, pattern_of = _patterns(base)
    limbs = np.empty((len(base), LIMBS), dtype=np.uint16)
    if len(patterns) == 1:
        (places,) = np.nonzero(patterns[0])
        limbs[:] = shamir.combine(shamir.lagrange_weights(patterns)[:, places], shares[:, places])
    else:
        limbs[:] = shamir.combine(shamir.lagrange_weights(patterns)[pattern_of], shares)
    return [limbs_to_seed(row) for row in limbs]


def _agree(
    usable: npt.NDArray[np.bool_], shares: ShareArray, threshold: int, entropy: EntropySource
) -> npt.NDArray[np.bool_]:
    """Of each owner, whether all its usable shares are on polynomials of a degree below the threshold.

    By the dual code: sum v_i q(x_i) f(x_i) = 0 for every q whose degree is at most r - t - 1, so for a random one.
    """
    patterns, pattern_of = _patterns(usable)
    spare = patterns.sum(axis=1) - threshold
    agree = np.ones(len(usable), dtype=bool)
    if not spare.size or not spare.max(initial=0):
        return agree
    weights = shamir.dual_weights(patterns)
    checked = np.flatnonzero(spare[pattern_of])
    mixed = _mixed(shares[checked], uniform_field_elements(LIMBS * _REPETITIONS, entropy).reshape(LIMBS, -1))
    for repetition in range(_REPETITIONS):
        random = multiply(weights, _random_polynomials(patterns.shape[1], spare, entropy))[pattern_of[checked]]
        agree[checked] &= reduce(multiply(random, mixed[:, :, repetition]).sum(axis=1, dtype=np.uint64)) == 0
    return agree


def _mixed(shares: ShareArray, weights: npt.NDArray[np.unsignedinteger]) -> FieldArray:
    """Sums of each share's limbs with these weights, shape (LIMBS, sums): (owners, places, sums)."""
    sums = matmul(shares.reshape(-1, LIMBS).astype(np.float64), weights.astype(np.float64))
    return sums.reshape(*shares.shape[:2], weights.shape[1])


def _random_polynomials(num_points: int, num_coefficients: npt.NDArray[np.intp], entropy: EntropySource) -> FieldArray:
    """q_c(x) = the first c terms of one random polynomial, at x = 1 ... num_points, for each c asked for."""
    wanted, row_of = np.unique(num_coefficients, return_inverse=True)
    coefficients = uniform_field_elements(int(wanted[-1]), entropy)[:, None]
    terms = np.arange(len(coefficients))[:, None]
    return shamir.values(np.where(terms < wanted, coefficients, np.uint16(0)), num_points).T[row_of]


def _differing(base: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_], shares: ShareArray) -> npt.NDArray[np.bool_]:
    """Which of the other shares are not on the polynomial through the base's, which are right."""
    differing = np.zeros_like(others)
    owners, places = np.flatnonzero(others.any(axis=1)), np.flatnonzero(others.any(axis=0))
    if owners.size:
        expected = shamir.evaluate(base[owners], shares[owners], places)
        differing[np.ix_(owners, places)] = np.any(expected != shares[np.ix_(owners, places)], axis=2)
    return differing & others


def _patterns(flags: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """The different rows, and which of them each row is."""
    packed = np.packbits(flags, axis=1)
    _, first, row_of = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return flags[first], row_of.reshape(-1).astype(np.intp)
