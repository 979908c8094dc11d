"""Run declearn's masking: all clients agree on keys (X3DH), and each masks a vector; a script for the peers' Python.

It prints one JSON line, with separate times for the agreement and the masking.
"""

import argparse
import json
import time
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from declearn.secagg.masking import MaskingEncrypter
from declearn.secagg.x3dh import X3DHManager

BITS = 32


def agree(num_clients: int) -> list[dict[int, int]]:
    """Return each client's seed with each peer, from the handshakes of all pairs."""
    identities = [Ed25519PrivateKey.generate() for _ in range(num_clients)]
    public_keys = [identity.public_key() for identity in identities]
    managers = [X3DHManager(identity, trusted=public_keys) for identity in identities]
    for one, other in combinations(range(num_clients), 2):
        response = managers[other].process_handshake_request(managers[one].create_handshake_request())
        managers[one].process_handshake_response(response)
    numbers = {key.public_bytes_raw(): number for number, key in enumerate(public_keys)}
    return [
        {numbers[peer]: int.from_bytes(secret, "big") for peer, secret in manager.secrets.items()}
        for manager in managers
    ]


def encrypter(own: int, seeds: dict[int, int]) -> MaskingEncrypter:
    """Return a client's encrypter; in each pair one client adds and the other subtracts."""
    return MaskingEncrypter(
        pos_masks_seeds=[seed for peer, seed in seeds.items() if own < peer],
        neg_masks_seeds=[seed for peer, seed in seeds.items() if own > peer],
        bitsize=BITS,
    )


def run(num_clients: int, length: int, value_bits: int) -> dict[str, Any]:
    """Return the seconds of all clients together, and whether the masks cancel in the sum."""
    rng = np.random.default_rng(0)
    values = [rng.integers(1 << value_bits, size=length).tolist() for _ in range(num_clients)]
    started = time.perf_counter()
    seeds = agree(num_clients)
    agreement_seconds = time.perf_counter() - started

    masking_seconds = 0.0
    total = np.zeros(length, dtype=np.uint64)
    for own in range(num_clients):
        started = time.perf_counter()
        masked = encrypter(own, seeds[own]).encrypt_uint_list(values[own])
        masking_seconds += time.perf_counter() - started
        total += np.array(masked, dtype=np.uint64)
    expected = np.sum(np.array(values, dtype=np.uint64), axis=0)
    return {
        "agreement_seconds": agreement_seconds,
        "masking_seconds": masking_seconds,
        "exact": bool(np.array_equal(total % (1 << BITS), expected % (1 << BITS))),
        "version": version("declearn"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--value-bits", type=int, required=True)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.clients, arguments.length, arguments.value_bits)))
