"""From the shares that came in to the secrets: wrong shares are found, done without, and their senders named.

A secret can be told from a wrong one (by its commitment, or its public key), so that no wrong one is ever used.  Shares
that were not needed are checked too, all of an owner's by one random combination, so that who sent a wrong one is
known even where it did no harm.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secagg.algebra import reed_solomon, shamir
from secagg.algebra.field import PRIME, FieldArray, multiply, reduce
from secagg.primitives.entropy import EntropySource
from secagg.sharing import LIMBS, ShareArray, limbs_to_seed, uniform_field_elements

Verifier = Callable[[int, bytes], bool]
"""Whether these 16 bytes are the secret of this owner."""

# A wrong share passes one random combination with probability 1/p; twice, 2^-32.
_REPETITIONS = 2


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
    result = RecoveredSecrets()
    suspects: set[int] = set()
    # Owners whose shares could not be decoded, and how many were suspected then: more suspects may settle them.
    undecoded: dict[int, int] = {}
    pending = rows
    while pending.size:
        usable = held[pending] & ~np.isin(holders[pending], sorted(suspects))
        # Suspicion may be wrong: an owner that cannot do without the suspects' shares is tried with them.
        too_few = usable.sum(axis=1) < threshold
        usable[too_few] = held[pending[too_few]]
        base = _first(usable, threshold)
        seeds = _reconstruct(base, shares[pending])
        good = _agree(usable, shares[pending], threshold, entropy)
        good &= [seed is not None and verify(row, seed) for row, seed in zip(pending.tolist(), seeds, strict=True)]
        for index in np.flatnonzero(good).tolist():
            result.seeds[int(pending[index])] = seeds[index]
        result.wrong += _mismatches(pending[good], base[good], held[pending[good]] & ~usable[good], shares)
        pending = pending[~good]
        if pending.size:
            # One of the others is decoded by itself; those whom it shows to lie are left out for the rest.
            row, pending = int(pending[0]), pending[1:]
            settled = _settle(row, usable[~good][0], held, shares, threshold, verify, entropy)
            if settled is None:
                undecoded[row] = len(suspects)
            else:
                result.seeds[row], bad = settled
                result.wrong += [(row, place) for place in bad]
                suspects.update(holders[row, bad].tolist())
        if not pending.size:
            again = [row for row, known in undecoded.items() if known < len(suspects)]
            pending = np.array(again, dtype=np.intp)
            for row in again:
                del undecoded[row]
    for row in undecoded:
        result.seeds[row] = None
        decoded = _decode(row, held[row], shares, threshold, entropy)
        # That the owner dealt another secret, and those in the bad places changed their shares, takes 1 + bad parties.
        # That the others made up a polynomial takes r - bad - t + 1 of them: who is named must be the fewer.
        if decoded is not None and 2 * len(decoded) < held[row].sum() - threshold:
            result.inconsistent.append(row)
            result.wrong += [(row, place) for place in decoded.tolist()]
    result.wrong.sort()
    return result


def explain(disputes: Sequence[tuple[int, int]]) -> list[int]:
    """As few parties as can be found, greedily, that have a part in every dispute; sorted.

    The first party of a dispute is named where it could be either.
    """
    left = set(disputes)
    named: list[int] = []
    while left:
        parts = Counter(party for dispute in left for party in dispute)
        blamed = Counter(first for first, _ in left)
        worst = max(parts, key=lambda party: (parts[party], blamed[party], -party))
        named.append(worst)
        left = {dispute for dispute in left if worst not in dispute}
    return sorted(named)


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
    for _ in range(_REPETITIONS):
        mixing = uniform_field_elements(LIMBS, entropy).astype(np.uint64)
        random = multiply(weights, _random_polynomials(patterns.shape[1], spare, entropy))
        checked = np.flatnonzero(spare[pattern_of])
        for row in range(0, len(checked), _ROWS):
            block = checked[row : row + _ROWS]
            mixed = reduce((shares[block] * mixing).sum(axis=2, dtype=np.uint64))
            sums = reduce(multiply(random[pattern_of[block]], mixed).sum(axis=1, dtype=np.uint64))
            agree[block] &= sums == 0
    return agree


# Owners that are checked at a time: bounds the temporaries.
_ROWS = 256


def _random_polynomials(num_points: int, num_coefficients: npt.NDArray[np.intp], entropy: EntropySource) -> FieldArray:
    """q_c(x) = the first c terms of one random polynomial, at x = 1 ... num_points, for each c asked for."""
    most = int(num_coefficients.max())
    coefficients = uniform_field_elements(most, entropy).astype(np.uint64)
    points = np.arange(1, num_points + 1, dtype=np.uint64)
    wanted, row_of = np.unique(num_coefficients, return_inverse=True)
    values = np.zeros((len(wanted), num_points), dtype=np.uint64)
    power, total = np.ones(num_points, dtype=np.uint64), np.zeros(num_points, dtype=np.uint64)
    for count, coefficient in enumerate(coefficients, start=1):
        total = reduce(total + power * coefficient)
        power = multiply(power, points)
        values[wanted == count] = total
    return values[row_of]


def _mismatches(
    rows: npt.NDArray[np.intp], base: npt.NDArray[np.bool_], left_out: npt.NDArray[np.bool_], shares: ShareArray
) -> list[tuple[int, int]]:
    """Of the shares that were left out, those that are not on the polynomial through the base's, which are right."""
    wrong: list[tuple[int, int]] = []
    asked = np.flatnonzero(left_out.any(axis=1))
    patterns, pattern_of = _patterns(base[asked])
    for number, pattern in enumerate(patterns):
        members = asked[pattern_of == number]
        places = np.flatnonzero(left_out[members].any(axis=0))
        weights = shamir.evaluation_weights(pattern, places.astype(np.uint64) + np.uint64(1))
        for start in range(0, len(members), _ROWS):
            block = members[start : start + _ROWS]
            expected = shamir.evaluate(weights, shares[rows[block]])
            differs = np.any(expected != shares[rows[block]][:, places], axis=2) & left_out[block][:, places]
            wrong += [(int(rows[block[row]]), int(places[place])) for row, place in np.argwhere(differs)]
    return wrong


def _settle(
    row: int,
    usable: npt.NDArray[np.bool_],
    held: npt.NDArray[np.bool_],
    shares: ShareArray,
    threshold: int,
    verify: Verifier,
    entropy: EntropySource,
) -> tuple[bytes, list[int]] | None:
    """An owner's secret and the places from which its shares are wrong; None if they are too many to tell.

    First without those who are suspected, then with everybody.  What the decoder takes for errors counts only if the
    secret is right: with too many wrong shares it can arrive at another polynomial, and at honest holders.
    """
    candidates = [usable] if np.array_equal(usable, held[row]) else [usable, held[row]]
    for candidate in candidates:
        bad = _decode(row, candidate, shares, threshold, entropy)
        if bad is None:
            continue
        good = candidate.copy()
        good[bad] = False
        base = _first(good[None, :], threshold)
        (seed,) = _reconstruct(base, shares[[row]])
        if seed is not None and verify(row, seed):
            left_out = (held[row] & ~candidate)[None, :]
            others = _mismatches(np.array([row], dtype=np.intp), base, left_out, shares)
            return seed, sorted([*bad.tolist(), *(place for _, place in others)])
    return None


def _decode(
    row: int, held: npt.NDArray[np.bool_], shares: ShareArray, threshold: int, entropy: EntropySource
) -> npt.NDArray[np.intp] | None:
    """Of the places that are held, those whose shares are not on the polynomial of all others; None if too many."""
    (places,) = np.nonzero(held)
    points = places.astype(np.uint64) + np.uint64(1)
    limbs = shares[row, places].astype(np.uint64)
    bad = np.zeros(len(places), dtype=bool)
    # The limbs of a share are wrong together. An error that is none in sum limb_i alpha^i is a root of a polynomial of
    # a lower degree than LIMBS: at so many alphas each error is seen at least once, and nearly always at the first.
    for alpha in range(1, LIMBS + 1):
        powers = np.array([pow(alpha, exponent, PRIME) for exponent in range(LIMBS)], dtype=np.uint64)
        errors = reed_solomon.find_errors(points, reduce((limbs * powers).sum(axis=1, dtype=np.uint64)), threshold)
        if errors is None:
            return None
        bad[errors] = True
        if 2 * np.count_nonzero(bad) > len(places) - threshold:
            return None
        if _agree(_flags(places[~bad], len(held)), shares[[row]], threshold, entropy)[0]:
            break
    return places[bad]


def _flags(places: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.bool_]:
    """One row of flags, set in these places."""
    flags = np.zeros((1, count), dtype=bool)
    flags[0, places] = True
    return flags


def _patterns(flags: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    """The different rows, and which of them each row is."""
    packed = np.packbits(flags, axis=1)
    _, first, row_of = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return flags[first], row_of.reshape(-1).astype(np.intp)
