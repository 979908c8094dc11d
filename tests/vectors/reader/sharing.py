"""Shamir's scheme over the integers modulo 65521; errors are found by trying."""

from collections.abc import Callable, Sequence
from itertools import combinations

from . import crypto

P = 65521
LIMBS = 9

Points = Sequence[tuple[int, int]]


def limbs_of(seed: bytes) -> list[int]:
    number = int.from_bytes(seed, "big")
    return [number >> 15 * i & 0x7FFF for i in range(LIMBS)]


def seed_of(limbs: Sequence[int]) -> bytes | None:
    """Return the seed, or None if the limbs are not a seed's."""
    number = sum(limb << 15 * i for i, limb in enumerate(limbs))
    if max(limbs) > 0x7FFF or number >= 2**128:
        return None
    return number.to_bytes(16, "big")


def value_at(point: int, known: Points) -> int:
    """Return the value elsewhere of the polynomial of lowest degree through some points (Lagrange)."""
    total = 0
    for i, (x, y) in enumerate(known):
        term = y
        for j, (other, _) in enumerate(known):
            if i != j:
                term = term * (point - other) * pow(x - other, -1, P) % P
        total += term
    return total % P


def polynomial(coefficients: Sequence[int], point: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * point + coefficient) % P
    return total


def shares_at(place: int, secrets: Sequence[int], rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the share in a place; row i has the coefficients of x^(i+1)."""
    return [polynomial([secret, *(row[column] for row in rows)], place + 1) for column, secret in enumerate(secrets)]


def coefficients(sharing_seed: bytes, session: bytes, client_id: int, threshold: int) -> list[list[int]]:
    """Return the rows of a client's polynomials."""
    key = crypto.hkdf(sharing_seed, session, "sharing coefficients", crypto.be32(client_id), 16)
    count = 18 * (threshold - 1)
    stream = crypto.keystream(key, 4 * count + 100)
    words = [int.from_bytes(stream[at : at + 2], "big") for at in range(0, len(stream), 2)]
    accepted = [word for word in words if word < P]
    return [accepted[at : at + 18] for at in range(0, count, 18)]


def pack_shares(limbs: Sequence[int]) -> bytes:
    return b"".join(limb.to_bytes(2, "big") for limb in limbs)


def unpack_shares(data: bytes) -> list[int] | None:
    """Return the limbs, or None if one is outside the field."""
    limbs = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    return limbs if all(limb < P for limb in limbs) else None


def seed_from(shares: Sequence[tuple[int, Sequence[int]]]) -> bytes | None:
    """Return the seed from (place, share) of exactly the threshold's number."""
    return seed_of([value_at(0, [(place + 1, share[limb]) for place, share in shares]) for limb in range(LIMBS)])


def wrong_values(points: Points, threshold: int) -> list[int] | None:
    """Return the indices of at most half the spare values that miss the one polynomial; None: it does not exist."""
    for chosen in combinations(points, threshold):
        wrong = [i for i, (x, y) in enumerate(points) if value_at(x, chosen) != y]
        if 2 * len(wrong) <= len(points) - threshold:
            return wrong
    return None


def recover(
    shares: dict[int, list[int]], threshold: int, is_secret: Callable[[bytes], bool]
) -> tuple[bytes, list[int]] | None:
    """Return the seed that its owner is bound to, and the places of the shares that do not belong to it."""
    for chosen in combinations(sorted(shares), threshold):
        known = [(place, shares[place]) for place in chosen]
        seed = seed_from(known)
        if seed is None or not is_secret(seed):
            continue
        wrong = [
            place
            for place, share in shares.items()
            if share != [value_at(place + 1, [(p + 1, s[limb]) for p, s in known]) for limb in range(LIMBS)]
        ]
        if 2 * len(wrong) <= len(shares) - threshold:
            return seed, sorted(wrong)
    return None
