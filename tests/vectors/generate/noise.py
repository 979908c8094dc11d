"""The groups of primitives.json about noise components."""

from typing import Any

import numpy as np

from secagg import Parameters, noise
from secagg.primitives import agreement
from secagg.primitives.agreement import SecretKey
from secagg.sharing import ShareChannel

from .entropy import Stream
from .layout import group

# Clients, threshold, corrupt clients, components.
_SESSIONS = ((5, 3, 0, 1), (10, 6, 0, 3), (10, 6, 2, 3), (50, 30, 2, 7), (100, 60, 5, 7), (1000, 667, 100, 16))


def params_of(num_clients: int, threshold: int, corrupt: int, components: int) -> Parameters:
    """Return the parameters of a session on the complete graph."""
    return Parameters(
        num_clients=num_clients,
        threshold=threshold,
        degree=num_clients - 1,
        vector_length=1,
        value_bits=1,
        ring_bits=1,
        modular=True,
        noise_components=components,
        corrupt_clients=corrupt,
    )


def removed_components() -> dict[str, Any]:
    """Return the components that are taken off for some numbers of survivors."""
    cases = []
    for numbers in _SESSIONS:
        params = params_of(*numbers)
        names = ("num_clients", "threshold", "corrupt_clients", "noise_components")
        survivors = sorted(
            {params.threshold, params.threshold + 1, *range(params.threshold, numbers[0], 7), numbers[0]}
        )
        removed = [
            {"survivors": count, "components": list(noise.removed_components(params, count))} for count in survivors
        ]
        cases.append({**dict(zip(names, numbers, strict=True)), "removed": removed})
    return group(
        "which noise components a sum of so many inputs does not need",
        "docs/protocol.md: the digits 0 of ceil((2^B - 1) (n - s) (t - A) / ((n - t) (s - A)))",
        cases,
    )


def noise_seeds(stream: Stream) -> dict[str, Any]:
    """Return the components' seeds, commitments and keys from a client's noise seed."""
    cases = []
    for client_id, components in ((0, 2), (2**32 - 1, 3)):
        session, seed = stream(32), stream(16)
        seeds = noise.seeds(seed, params_of(5, 3, 0, components), session, client_id)
        cases.append(
            {
                "session_id": session,
                "client_id": client_id,
                "noise_seed": seed,
                "seeds": list(seeds),
                "commitments": [noise.commitment(one, session, client_id, at) for at, one in enumerate(seeds, 1)],
                "keys": [noise.noise_key(one, session, client_id, at) for at, one in enumerate(seeds, 1)],
            }
        )
    return group(
        "for each component from 1 on: its seed, the commitment to it, and the key that the hosts draw noise from",
        "HKDF-SHA-256 and SHA-256 with label, client id, component (one byte)",
        cases,
    )


def noise_shares(stream: Stream) -> dict[str, Any]:
    """Return pads from their keys, and the corrections that make shares of them."""
    cases = []
    for holders, threshold, components in ((3, 2, 1), (5, 3, 2), (4, 4, 1)):
        params = params_of(9, threshold, 0, components)
        keys, seeds = [stream(16) for _ in range(holders)], [stream(16) for _ in range(components)]
        pads = np.stack([noise.pads(key, params) for key in keys])
        corrections = noise.corrections(seeds, pads, threshold)
        cases.append(
            {
                "threshold": threshold,
                "seeds": seeds,
                "pad_keys": keys,
                "pads": pads.tolist(),
                "corrections": corrections.tolist(),
            }
        )
    return group(
        "pads: for each holder and component 9 field elements; corrections: for the holders from place t - 1 on",
        "docs/protocol.md; the polynomials go through the seed's limbs at 0 and the pads of places 0 to t - 2",
        cases,
    )


def pad_keys(stream: Stream) -> dict[str, Any]:
    """Return the keys of the pads of two clients, and of a client for its own place."""
    session, low_id, high_id = stream(32), 17, 2**31
    low, high, sharing_seed = stream(32), stream(32), stream(16)
    public = agreement.public_key(high)
    channel = ShareChannel.agree(SecretKey(low), public, session, low_id, high_id, with_pads=True)
    of_low, of_high = channel.pad_keys
    case = {
        "session_id": session,
        "low_id": low_id,
        "high_id": high_id,
        "low_secret_key": low,
        "high_secret_key": high,
        "seeds_of_low": of_low,
        "seeds_of_high": of_high,
        "low_sharing_seed": sharing_seed,
        "own_of_low": noise.own_pad_key(sharing_seed, session, low_id),
    }
    return group(
        "keys of the pads: of the larger id for seeds of the smaller one, the other way round, and for a client's own",
        "bytes 32 to 63 of HKDF-SHA-256 with the label of the channel keys; a label of its own for the own place",
        [case],
    )
