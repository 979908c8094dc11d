"""Recover secrets from shares: wrong shares are found and ignored, and their senders named.

A secret is verified by its commitment or its public key, so a wrong secret is never used.  Shares beyond the needed
ones are checked too, with one random combination for each owner, so that the sender of a wrong share is known even
where it did no harm.
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
"""A function that returns whether 16 bytes are the secret of an owner."""

# A wrong share passes one random combination with probability 1/p; twice, 2^-32.
_REPETITIONS = 2

# Largest number of owners processed together; bounds the temporary arrays.
_OWNERS = 256

# Largest number of passes over the remaining owners as further holders are suspected. Liars can arrange that each pass
# shows only a few of them, hence a limit; otherwise two or three passes are enough.
_LOOKS = 8


@dataclass(slots=True, repr=False)
class RecoveredSecrets:
    """The result of a recovery.

    Attributes:
        seeds: the secret of each owner by its row; None if its shares do not give it.
        wrong: (row of the owner, place of the holder) of each share that is known to be wrong.
        inconsistent: rows of owners whose shares agree with each other but not with what the owner advertised, where
            it would take more lying holders than other wrong parties to fake this.
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
    """Recover the secrets of some owners.

    Args:
        rows: the owners, as indices into ``held`` and ``shares``; each has at least ``threshold`` shares.
        holders: the holder in each place, shape (owners, places); a holder that lied once is suspected everywhere.
        held: flags of the shares that arrived, shape (owners, places).
        shares: shape (owners, places, LIMBS); shares that are not held are ignored.
        threshold: t.
        verify: returns whether a seed is the secret of an owner.
        entropy: for combinations that the senders of shares cannot predict.
    """
    return _Recovery(holders, held, shares, threshold, verify, entropy).of(rows)


class _Recovery:
    """Run `recover_secrets`: all owners in blocks, then the remaining owners again while further holders are suspected.

    An owner is decoded once with all its shares. In each pass where more of its holders are suspected than before, it
    is decoded without the holders that lied at all, and without those that lied more often than not: at most 2 * _LOOKS
    + 1 times.
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
        # Number of shares of each holder that were found wrong, and right.
        self._lied, self._told_the_truth = np.zeros((2, int(holders.max(initial=0)) + 1), dtype=np.intp)
        # The shares with which each owner was decoded last.
        self._decoded = np.zeros_like(held)
        # The wrong shares of each owner that was decoded with all its shares; None if they are too many.
        self._wrong_of_all: dict[int, npt.NDArray[np.intp] | None] = {}
        self._result = RecoveredSecrets()

    def of(self, rows: npt.NDArray[np.intp]) -> RecoveredSecrets:
        """Return the secrets of these owners."""
        result, pending = self._result, rows
        for _ in range(_LOOKS):
            known = np.count_nonzero(self._lied)
            pending = np.concatenate([pending[:0], *(self._unsettled(block) for block in _blocks(pending))])
            if np.count_nonzero(self._lied) == known:
                break
        for row in pending.tolist():
            result.seeds[row] = None
            bad = self._wrong_of_all[row]
            # Either the owner dealt another secret and the holders in the bad places lied (1 + bad parties), or the
            # other holders made up a polynomial (r - bad - t + 1 parties). Name the smaller group.
            if bad is not None and 2 * len(bad) < np.count_nonzero(self._held[row]) - self._threshold:
                result.inconsistent.append(row)
                result.wrong += [(row, place) for place in bad.tolist()]
        result.wrong.sort()
        result.inconsistent.sort()
        return result

    def _unsettled(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Settle the owners that can be settled now; return the others."""
        usable = self._without(rows, self._lied > 0)
        changed = np.any(usable != self._decoded[rows], axis=1)
        unchanged, rows, usable = rows[~changed], rows[changed], usable[changed]
        settled = _agree(usable, self._shares[rows], self._threshold, self._entropy)
        settled[settled] = self._settle(rows[settled], usable[settled], np.zeros_like(usable[settled]))
        rows, usable = rows[~settled], usable[~settled]
        self._decoded[rows] = usable
        # Leaving out a holder helps where its share is wrong and hurts where it is right.
        rows = self._correct(rows, usable, np.ones(len(rows), dtype=bool))
        usable = self._without(rows, self._lied > self._told_the_truth)
        rows = self._correct(rows, usable, np.any(usable != self._decoded[rows], axis=1))
        is_new = np.array([row not in self._wrong_of_all for row in rows.tolist()], dtype=bool)
        rows = self._correct(rows, self._held[rows], is_new)
        return np.concatenate((unchanged, rows))

    def _without(self, rows: npt.NDArray[np.intp], suspects: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return the flags of these owners' shares without the suspects'; of owners that need those, all shares."""
        usable: npt.NDArray[np.bool_] = self._held[rows] & ~suspects[self._holders[rows]]
        too_few = np.count_nonzero(usable, axis=1) < self._threshold
        usable[too_few] = self._held[rows[too_few]]
        return usable

    def _correct(
        self, rows: npt.NDArray[np.intp], usable: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.intp]:
        """Settle the asked owners whose usable shares can be decoded; return all others."""
        owners, usable = rows[asked], usable[asked]
        bad, found = self._decode(owners, usable)
        for index in np.flatnonzero(np.all(usable == self._held[owners], axis=1)).tolist():
            self._wrong_of_all[int(owners[index])] = np.flatnonzero(bad[index]) if found[index] else None
        found[found] = self._settle(owners[found], usable[found], bad[found])
        return np.concatenate((rows[~asked], owners[~found]))

    def _decode(
        self, rows: npt.NDArray[np.intp], usable: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Flag the usable shares that are not on the polynomial of the others, and the owners that were decoded."""
        points = np.arange(1, usable.shape[1] + 1, dtype=np.uint64)
        shares, spare = self._shares[rows], np.count_nonzero(usable, axis=1) - self._threshold
        bad, found, left = np.zeros_like(usable), np.zeros(len(rows), dtype=bool), np.arange(len(rows))
        # The limbs of a share are wrong together. An alpha that hides an error in sum limb_i alpha^i is a root of a
        # polynomial of a degree below LIMBS, so LIMBS alphas show each error at least once, and nearly always the first
        # alpha does, since nobody can predict it.
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
        """Settle the owners whose usable shares, without the bad ones, give a verified secret; return their flags.

        The decoder's errors count for these owners only: with too many wrong shares it can find another polynomial and
        flag honest holders.
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
    """Return a small set of parties, found greedily, with a part in each dispute; sorted.

    Where either party of a dispute would do, the first is named.
    """
    parties, ends = np.unique(np.array(disputes, dtype=np.int64).reshape(-1, 2), return_inverse=True)
    ends = ends.reshape(-1, 2)
    _, once = np.unique(ends[:, 0] * len(parties) + ends[:, 1], return_index=True)
    ends = ends[once]
    # Rank by the number of disputes of a party, then by the number in which it is first; ties go to the smallest id.
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
    """Yield blocks, small ones first: most liars lie about many owners, and later blocks leave known liars out."""
    start, size = 0, 4
    while start < len(rows):
        yield rows[start : start + size]
        start, size = start + size, min(8 * size, _OWNERS)


def _first(usable: npt.NDArray[np.bool_], threshold: int) -> npt.NDArray[np.bool_]:
    """Flag the first ``threshold`` held places of each row."""
    chosen: npt.NDArray[np.bool_] = usable & (np.cumsum(usable, axis=1) <= threshold)
    return chosen


def _reconstruct(base: npt.NDArray[np.bool_], shares: ShareArray) -> list[bytes | None]:
    """Return each owner's seed from its base shares, with one matrix product for all owners with the same base."""
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
    """Flag the owners whose usable shares all are on polynomials of a degree below the threshold.

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
    """Return weighted sums of each share's limbs, (owners, places, sums), for weights of shape (LIMBS, sums)."""
    sums = matmul(shares.reshape(-1, LIMBS).astype(np.float64), weights.astype(np.float64))
    return sums.reshape(*shares.shape[:2], weights.shape[1])


def _random_polynomials(num_points: int, num_coefficients: npt.NDArray[np.intp], entropy: EntropySource) -> FieldArray:
    """Return the values at 1..num_points of a random polynomial, cut off after c terms for each given c."""
    wanted, row_of = np.unique(num_coefficients, return_inverse=True)
    coefficients = uniform_field_elements(int(wanted[-1]), entropy)[:, None]
    terms = np.arange(len(coefficients))[:, None]
    return shamir.values(np.where(terms < wanted, coefficients, np.uint16(0)), num_points).T[row_of]


def _differing(base: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_], shares: ShareArray) -> npt.NDArray[np.bool_]:
    """Flag the other shares that are not on the polynomial through the base shares, which are right."""
    differing = np.zeros_like(others)
    owners, places = np.flatnonzero(others.any(axis=1)), np.flatnonzero(others.any(axis=0))
    if owners.size:
        expected = shamir.evaluate(base[owners], shares[owners], places)
        differing[np.ix_(owners, places)] = np.any(expected != shares[np.ix_(owners, places)], axis=2)
    return differing & others


def _patterns(flags: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """Return the distinct rows, and the index of each row among them."""
    packed = np.packbits(flags, axis=1)
    _, first, row_of = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return flags[first], row_of.reshape(-1).astype(np.intp)
