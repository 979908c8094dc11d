"""A client's check of other clients' views, at its worst: what one message of a server that lies can cost it."""

import contextlib
import os
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.case import Case
from benchmarks.interleave import Work
from secagg import Adversary, Parameters, RemoteProtocolError, decode_server_message, encode
from secagg._client.neighborhood import Neighborhood
from secagg._client.rules import Setup, View, check_consistency_proof
from secagg.messages import ConsistencyProof
from secagg.primitives.digest import DIGEST_BYTES


def refused_views(peers: int) -> Case:
    """A sparse graph's proof in which every signature is bad, and each view has but receiver and signer in common."""

    def build() -> tuple[Work, Work]:
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
        view = View(
            Neighborhood(
                tuple(range(size)),
                mask_public_keys=b"",
                identity_keys=b"".join(key.public_bytes_raw() for key in keys),
                key_digests=os.urandom(DIGEST_BYTES * size),
            ),
            shared=everyone,
            survivors=everyone,
        )
        proof = ConsistencyProof(
            session_id,
            everyone,
            b"".join(signatures),
            common=b"".join((1 | 1 << place).to_bytes((size + 7) // 8, "little") for place in range(1, size)),
            others=os.urandom(DIGEST_BYTES * (size - 2) * peers),
        )
        data, setup = encode(proof, params), Setup(params, 0, session_id)
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
