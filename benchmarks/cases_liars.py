"""Measure the cost of liars: false shares, disputes and views, compared with the same work without liars."""

import contextlib
import os
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.case import Case, Pair
from secagg import Adversary, Parameters, RemoteProtocolError, decode_server_message, encode
from secagg._client.neighborhood import Neighborhood
from secagg._client.rules import ClientSetup, View, check_consistency_proof
from secagg._server.share_recovery import RecoveredSecrets, explain, recover_secrets
from secagg.algebra import shamir
from secagg.algebra.field import PRIME
from secagg.graph import CompleteGraph
from secagg.messages import ConsistencyProof
from secagg.primitives.digest import DIGEST_BYTES
from secagg.sharing import LIMBS, ShareArray, limbs_to_seed


def recovery_with_liars(clients: int) -> Case:
    """Recover all secrets on the complete graph with one liar more than decoding can correct."""
    threshold = 2 * clients // 3 + 1
    liars = (clients - threshold) // 2 + 1

    def build() -> Pair:
        rng = np.random.default_rng(1)
        limbs = rng.integers(1 << 15, size=(clients, LIMBS), dtype=np.uint16)
        # A seed has 128 bits, and the last limb holds 8 of them.
        limbs[:, -1] >>= 7
        coefficients = rng.integers(PRIME, size=(threshold - 1, clients * LIMBS), dtype=np.uint16)
        shares = shamir.share(limbs.ravel(), coefficients, clients).reshape(clients, clients, LIMBS).swapaxes(0, 1)
        spoiled = shares.copy()
        spoiled[:, :liars] = rng.integers(PRIME, size=(clients, liars, LIMBS), dtype=np.uint16)
        seeds = [limbs_to_seed(row) for row in limbs]
        lost, found = _recovery(seeds, spoiled, threshold, rng.bytes), _recovery(seeds, shares, threshold, rng.bytes)
        assert not any(lost().seeds.values())
        assert all(found().seeds.values())
        return lost, found

    params = {"clients": clients, "liars": liars}
    of = "time over the recovery of as many secrets where nobody lies"
    return Case("recovery_with_liars", params, of, build, costs=True, rounds=7)


def _recovery(
    seeds: list[bytes | None], shares: ShareArray, threshold: int, entropy: Callable[[int], bytes]
) -> Callable[[], RecoveredSecrets]:
    members = CompleteGraph(len(seeds)).members
    held = np.ones(members.shape, dtype=bool)
    rows = np.arange(len(seeds))
    return lambda: recover_secrets(
        rows, members, held, shares, threshold, lambda row, seed: seed == seeds[row], entropy
    )


def explanation(clients: int) -> Case:
    """Find the parties that explain the disputes if a third of the clients claim that they could open no share."""
    liars = -(-clients // 3) - 1

    def build() -> Pair:
        owners, holders = np.indices((clients, liars)).reshape(2, -1)
        pairs: npt.NDArray[np.int64] = np.stack((owners, holders), axis=1)[owners != holders]
        keys = np.random.default_rng(2).permutation(pairs[:, 0] * clients + pairs[:, 1])
        assert explain(pairs) == list(range(liars))
        return lambda: explain(pairs), lambda: np.sort(keys)

    params = {"clients": clients, "liars": liars}
    of = "time over sorting as many numbers as there are disputes"
    return Case("explanation", params, of, build, costs=True, rounds=7)


def refused_views(peers: int) -> Case:
    """Refuse a sparse graph's proof in which every signature is bad: a client's costliest message.

    Each view shares only the receiver and the signer with the receiver's view.
    """

    def build() -> Pair:
        params = Parameters(
            num_clients=2 * peers,
            threshold=2 * peers // 3 + 1,
            degree=peers,
            vector_length=1,
            value_bits=1,
            ring_bits=32,
            adversary=Adversary.MALICIOUS,
        )
        size, session_id, statement = peers + 1, os.urandom(32), os.urandom(128)
        signers = [Ed25519PrivateKey.generate() for _ in range(size)]
        signatures = [signer.sign(os.urandom(128)) for signer in signers[1:]]
        keys = [signer.public_key() for signer in signers]
        everyone = (True,) * size
        neighborhood = Neighborhood(
            tuple(range(size)),
            mask_public_keys=b"",
            identity_keys=b"".join(key.public_bytes_raw() for key in keys),
            key_digests=os.urandom(DIGEST_BYTES * size),
        )
        view = View(neighborhood, shared=everyone, survivors=everyone)
        proof = ConsistencyProof(
            session_id,
            everyone,
            b"".join(signatures),
            common=b"".join((1 | 1 << place).to_bytes((size + 7) // 8, "little") for place in range(1, size)),
            others=os.urandom(DIGEST_BYTES * (size - 2) * peers),
        )
        data, setup = encode(proof, params), ClientSetup(params, 0, session_id)
        one_view = os.urandom(DIGEST_BYTES * size)

        def refuse() -> None:
            message = decode_server_message(data, params)
            assert isinstance(message, ConsistencyProof)
            with contextlib.suppress(RemoteProtocolError):
                check_consistency_proof(message, setup, view)
                raise AssertionError("bad signatures were counted")

        def raw() -> None:
            for key, signature in zip(keys[1:], signatures, strict=True):
                sha256(one_view)
                with contextlib.suppress(InvalidSignature):
                    key.verify(signature, statement)

        return refuse, raw

    of = "time over that of as many raw Ed25519 verifications and SHA-256 of the same digests"
    return Case("refused_views", {"peers": peers}, of, build, costs=True, rounds=7)
