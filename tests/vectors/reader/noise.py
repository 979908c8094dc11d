"""Noise components: which are taken off, their seeds and keys, and the shares of the seeds."""

from collections.abc import Sequence
from typing import Any

from . import crypto, sharing

Pads = list[list[int]]
"""Of one holder for one owner: 9 field elements for each component."""


def removed(params: dict[str, Any], survivors: int) -> list[int]:
    """Return the components that a sum of so many inputs does not need, from 1 on."""
    components, corrupt = params["noise_components"], params["corrupt_clients"]
    if not components:
        return []
    vanished, fewest = params["num_clients"] - survivors, params["threshold"] - corrupt
    dividend = (2**components - 1) * vanished * fewest
    divisor = (params["num_clients"] - params["threshold"]) * (survivors - corrupt)
    kept, rest = divmod(dividend, divisor)
    digits = f"{kept + (rest > 0):0{components}b}"[::-1]
    return [component for component, digit in enumerate(digits, 1) if digit == "0"]


def _context(client_id: int, component: int) -> bytes:
    return crypto.be32(client_id) + bytes([component])


def seeds(noise_seed: bytes, session: bytes, client_id: int, components: int) -> list[bytes]:
    return [
        crypto.hkdf(noise_seed, session, "noise seed", _context(client_id, at), 16) for at in range(1, components + 1)
    ]


def commitment(seed: bytes, session: bytes, client_id: int, component: int) -> bytes:
    return crypto.labelled_hash("noise commitment", session, _context(client_id, component), seed)


def key(seed: bytes, session: bytes, client_id: int, component: int) -> bytes:
    return crypto.hkdf(seed, session, "noise key", _context(client_id, component), 16)


def pad_key(secret_key: bytes, peer_key: bytes, session: bytes, own_id: int, peer_id: int, owner: int) -> bytes:
    """Return the key of the pads for the seeds of ``owner``, one of the two."""
    low, high = min(own_id, peer_id), max(own_id, peer_id)
    keys = crypto.hkdf(crypto.x25519(secret_key, peer_key), session, "channel keys", crypto.be32(low, high), 64)
    return keys[32:48] if owner == low else keys[48:]


def own_pad_key(sharing_seed: bytes, session: bytes, client_id: int) -> bytes:
    return crypto.hkdf(sharing_seed, session, "own noise pads", crypto.be32(client_id), 16)


def pads(pads_key: bytes, components: int) -> Pads:
    count = sharing.LIMBS * components
    stream = crypto.keystream(pads_key, 4 * count + 100)
    words = [int.from_bytes(stream[at : at + 2], "big") for at in range(0, len(stream), 2)]
    accepted = [word for word in words if word < sharing.P][:count]
    return [accepted[at : at + sharing.LIMBS] for at in range(0, count, sharing.LIMBS)]


def corrections(component_seeds: Sequence[bytes], all_pads: Sequence[Pads], threshold: int) -> list[Pads]:
    """Return what the shares from place t - 1 on differ by from the pads."""
    corrected = []
    for place in range(threshold - 1, len(all_pads)):
        rows = []
        for component, seed in enumerate(component_seeds):
            row = []
            for limb, secret in enumerate(sharing.limbs_of(seed)):
                known = [(0, secret)]
                known += [(at + 1, all_pads[at][component][limb]) for at in range(threshold - 1)]
                row.append((sharing.value_at(place + 1, known) - all_pads[place][component][limb]) % sharing.P)
            rows.append(row)
        corrected.append(rows)
    return corrected


def packed(items: Sequence[Pads]) -> bytes:
    return b"".join(sharing.pack_shares(row) for rows in items for row in rows)
