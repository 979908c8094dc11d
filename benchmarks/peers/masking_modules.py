"""Mask a vector for each client with the masking module of OpenFL, APPFL or Fed-BioMed; a script for the peers' Python.

The module is the released one, loaded from its file: the packages around it, with all that they import, are not needed.
All secrets are agreed on beforehand. It prints one JSON line, with the clients' seconds together.
"""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import distribution
from types import ModuleType
from typing import Any

import numpy as np


def _module(package: str, path: str) -> ModuleType:
    """Load one file of an installed package."""
    file = distribution(package).locate_file(path)
    spec = importlib.util.spec_from_file_location(f"{package}_masking", str(file))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pairwise_secrets(num_clients: int) -> dict[tuple[int, int], bytes]:
    """Return 32 bytes for each pair, the smaller number first."""
    return {(low, high): os.urandom(32) for high in range(num_clients) for low in range(high)}


def openfl(vectors: np.ndarray) -> tuple[Callable[[int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return OpenFL's masking of one client, and the removal of what is left in the sum.

    The masks of a client are two numbers, added to every element.
    """
    crypto = _module("openfl", "openfl/utilities/secagg/crypto.py")
    secrets = _pairwise_secrets(len(vectors))
    seeds = [float(np.random.default_rng(i).random()) for i in range(len(vectors))]

    def mask(own: int) -> np.ndarray:
        agreed = [(own, peer, secrets[min(own, peer), max(own, peer)]) for peer in range(len(vectors)) if peer != own]
        private, shared = crypto.pseudo_random_generator(seeds[own]), crypto.calculate_shared_mask(agreed)
        masked: np.ndarray = np.add(vectors[own], np.float32(private + shared))
        return masked

    def unmask(total: np.ndarray) -> np.ndarray:
        return total - sum(crypto.pseudo_random_generator(seed) for seed in seeds)

    return mask, unmask


def appfl(vectors: np.ndarray) -> tuple[Callable[[int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return APPFL's masking of one client; its masks cancel but for rounding."""
    import torch

    module = _module("appfl", "appfl/privacy/secure_aggregator.py")
    names = [f"client {i:04d}" for i in range(len(vectors))]
    secret, device = os.urandom(32), torch.device("cpu")
    aggregators = [module.SecureAggregator(name, names, secret, device) for name in names]

    def mask(own: int) -> np.ndarray:
        masked, _ = aggregators[own].mask_update({"weights": torch.from_numpy(vectors[own])}, round_id=0)
        array: np.ndarray = masked.numpy()
        return array

    return mask, lambda total: total


def fedbiomed(vectors: np.ndarray) -> tuple[Callable[[int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return the masking of one client by Fed-BioMed's LOM; lists of ints in and out, as its nodes use it."""
    lom = _module("fedbiomed", "fedbiomed/common/secagg/_lom.py").LOM(nonce=bytes(range(16)))
    names = [f"node {i:04d}" for i in range(len(vectors))]
    secrets = _pairwise_secrets(len(vectors))
    lists = [vector.tolist() for vector in vectors]

    def mask(own: int) -> np.ndarray:
        of_peers = {names[peer]: secrets[min(own, peer), max(own, peer)] for peer in range(len(vectors)) if peer != own}
        return np.array(lom.protect(names[own], of_peers, 1, lists[own], names), dtype=np.uint64)

    return mask, lambda total: total


PEERS = {"openfl": openfl, "appfl": appfl, "fedbiomed": fedbiomed}


def run(peer: str, num_clients: int, length: int, value_bits: int) -> dict[str, Any]:
    """Return the seconds of all clients together, and whether the masks cancel in the sum."""
    rng = np.random.default_rng(0)
    whole = peer == "fedbiomed"
    if whole:
        vectors = rng.integers(1 << value_bits, size=(num_clients, length), dtype=np.uint64)
    else:
        vectors = rng.uniform(-1, 1, (num_clients, length)).astype(np.float32)
    mask, unmask = PEERS[peer](vectors)
    seconds = 0.0
    total = np.zeros(length, dtype=np.uint64 if whole else np.float64)
    for own in range(num_clients):
        started = time.perf_counter()
        masked = mask(own)
        seconds += time.perf_counter() - started
        assert not np.array_equal(masked, vectors[own])
        total += masked
    found = unmask(total)
    expected = vectors.sum(axis=0, dtype=total.dtype)
    # Float masks cancel but for the rounding of float32: a mask that stays is off by far more.
    exact = np.array_equal(found, expected) if whole else float(np.abs(found - expected).max()) < 1e-3
    return {"masking_seconds": seconds, "exact": bool(exact), "version": distribution(peer).version}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--value-bits", type=int, required=True)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.peer, arguments.clients, arguments.length, arguments.value_bits)))
