"""The sessions, each for some of the events that can happen."""

from dataclasses import replace
from typing import Any

from secagg import Adversary, ClientMessage, Parameters, Round
from secagg.messages import ShareKeys, UnmaskingShares
from secagg.sharing import shares_from_bytes, shares_to_bytes

from .layout import document
from .recorder import Script, record

COMPLETE = "session_complete_dropouts.json"
MALICIOUS = "session_malicious.json"
SEMI_MALICIOUS = "session_semi_malicious.json"
SPARSE_MALICIOUS = "session_sparse_malicious.json"
SPARSE = "session_sparse_lonely.json"
NOISE = "session_noise.json"

FIELDS = {
    "name": "the label of this session's randomness, see the streams in the README",
    "parameters": "agreed on beforehand; the session id is a hash of them",
    "nonce, context": "public bytes from the application (context: Pasquini et al., CCS 2022)",
    "session_id": "SHA-256 of version, parameters, nonce and context",
    "clients.vanishes": "the first round in which no message of this client comes; null: it stays to the end",
    "clients.identity_secret_key, identity_key": "Ed25519 key pair (RFC 8032), malicious mode; the keys are pinned. In "
    "semi-malicious mode the secret key is the fifth draw",
    "clients.entropy": "what the client draws at its start, in this order; null: it never started",
    "clients.input": "x_u (Bonawitz et al. 2017, figure 4)",
    "graph_entropy": "what the server draws for the neighbour graph when AdvertiseKeys closes: 8 bytes a client that "
    "advertised; empty on the complete graph. What else it draws changes no message",
    "steps": "what happens, in order; message: bytes on the wire, round: the one that the message belongs to or opens",
    "steps.delivered": "false: the message never reached the client",
    "steps.rejected_shares": "peers whose encrypted shares the client could not open",
    "steps.honest_message, deviation": "what the client would have sent, and how it departs from the protocol",
    "steps.dropped": "whom the server goes on without, and why (DropReason)",
    "outcome.survivors": "U3, whose inputs are in the sum",
    "outcome.disputes, culprits": "shares that are wrong or that their holder could not open, and who explains them",
    "outcome.self_mask_seeds": "b_u of each survivor, reconstructed",
    "outcome.mask_key_seeds": "the seed of s_u^SK of those that vanished after ShareKeys, reconstructed",
    "outcome.partial_sums": "sums of the masked inputs of every other survivor, as two processes of the server may "
    "take them in and hand them over; both add up to masked_sum",
    "outcome.masked_sum": "the sum of the masked inputs modulo 2^ring_bits, masks still on",
    "outcome.sum": "the result",
    "outcome.noise_keys": "the keys of the noise components that the sum does not need, of each survivor",
}


def build_sessions() -> dict[str, dict[str, Any]]:
    """Return all session files."""
    return {
        COMPLETE: _file(
            _complete_dropouts(),
            "Honest-but-curious, complete graph, 5 clients, threshold 2: one vanishes "
            "in ShareKeys, one in MaskedInputCollection, one in Unmasking.",
        ),
        MALICIOUS: _file(
            _malicious(),
            "Malicious mode, complete graph, 7 clients, threshold 4: one vanishes before its "
            "input, one deals a share that cannot be opened, one gives back a wrong share.",
        ),
        SEMI_MALICIOUS: _file(
            _semi_malicious(),
            "Semi-malicious mode, complete graph, 4 clients, threshold 3: identity keys are drawn for the session; one "
            "client vanishes after its input.",
        ),
        SPARSE_MALICIOUS: _file(
            _sparse_malicious(),
            "Malicious mode, sparse graph of degree 6, 9 clients, threshold 4: "
            "one is never there, one vanishes before its input, one after it.",
        ),
        SPARSE: _file(
            _sparse_lonely(),
            "Honest-but-curious, sparse graph of degree 4, 12 clients, threshold 2: three "
            "vanish in ShareKeys, and one is dropped since too few of its neighbours are left.",
        ),
        NOISE: _file(
            _noise(),
            "Malicious mode, complete graph, 7 clients, threshold 4, 3 noise components: one vanishes "
            "before its input, one gives back a wrong pad.",
        ),
    }


def _file(script: Script, description: str) -> dict[str, Any]:
    return document(description, FIELDS, **record(script))


def _complete_dropouts() -> Script:
    params = Parameters(num_clients=5, threshold=2, degree=4, vector_length=12, value_bits=16, ring_bits=20)
    return Script(
        "session_complete_dropouts",
        params,
        client_ids=(3, 17, 1000, 2**31, 2**32 - 1),
        context=b"round 1",
        vanishes={
            1000: Round.SHARE_KEYS,
            3: Round.MASKED_INPUT_COLLECTION,
            2**32 - 1: Round.UNMASKING,
        },
    )


def _malicious() -> Script:
    params = Parameters(
        num_clients=7,
        threshold=4,
        degree=6,
        vector_length=20,
        value_bits=30,
        ring_bits=33,
        adversary=Adversary.MALICIOUS,
    )

    def damage_first_share(message: ClientMessage) -> ClientMessage:
        assert isinstance(message, ShareKeys)
        first = message.encrypted_shares[0] ^ 1
        return replace(message, encrypted_shares=bytes([first]) + message.encrypted_shares[1:])

    def change_fourth_share(message: ClientMessage) -> ClientMessage:
        assert isinstance(message, UnmaskingShares)
        shares = message.shares.copy()
        shares[3, 4] = (int(shares[3, 4]) + 1) % 65521
        return replace(message, shares=shares)

    return Script(
        "session_malicious",
        params,
        client_ids=(1, 2, 5, 8, 300, 70000, 2**24),
        nonce=bytes(range(16)),
        context=b"model 7",
        vanishes={8: Round.MASKED_INPUT_COLLECTION},
        deviations={
            (5, Round.SHARE_KEYS): (damage_first_share, "one bit of the first ciphertext, for client 1, is flipped"),
            (70000, Round.UNMASKING): (
                change_fourth_share,
                "limb 4 of the fourth share, of client 8's mask key, is one too large",
            ),
        },
    )


def _semi_malicious() -> Script:
    params = Parameters(
        num_clients=4,
        threshold=3,
        degree=3,
        vector_length=6,
        value_bits=7,
        ring_bits=9,
        adversary=Adversary.SEMI_MALICIOUS,
    )
    return Script(
        "session_semi_malicious",
        params,
        client_ids=(2, 4, 6, 8),
        context=b"semi",
        vanishes={6: Round.CONSISTENCY_CHECK},
    )


def _sparse_malicious() -> Script:
    params = Parameters(
        num_clients=9,
        threshold=4,
        degree=6,
        vector_length=16,
        value_bits=8,
        ring_bits=12,
        adversary=Adversary.MALICIOUS,
    )
    return Script(
        "session_sparse_malicious",
        params,
        client_ids=tuple(range(10, 100, 10)),
        nonce=b"nonce of a sparse session",
        vanishes={
            60: Round.ADVERTISE_KEYS,
            30: Round.MASKED_INPUT_COLLECTION,
            80: Round.CONSISTENCY_CHECK,
        },
    )


def _sparse_lonely() -> Script:
    params = Parameters(num_clients=12, threshold=2, degree=4, vector_length=9, value_bits=12, ring_bits=16)
    return Script(
        "session_sparse_lonely",
        params,
        client_ids=tuple(range(12)),
        vanishes=dict.fromkeys((3, 6, 10), Round.SHARE_KEYS),
    )


def _noise() -> Script:
    params = Parameters(
        num_clients=7,
        threshold=4,
        degree=6,
        vector_length=5,
        value_bits=12,
        ring_bits=12,
        modular=True,
        adversary=Adversary.MALICIOUS,
        noise_components=3,
        corrupt_clients=0,
    )

    def change_second_pad(message: ClientMessage) -> ClientMessage:
        assert isinstance(message, UnmaskingShares)
        pads = shares_from_bytes(message.noise_pads)
        pads[1, 0] = (int(pads[1, 0]) + 1) % 65521
        return replace(message, noise_pads=shares_to_bytes(pads))

    return Script(
        "session_noise",
        params,
        client_ids=(1, 2, 5, 8, 300, 70000, 2**24),
        nonce=b"nonce of a noisy session",
        context=b"model 7",
        vanishes={8: Round.MASKED_INPUT_COLLECTION},
        deviations={
            (300, Round.UNMASKING): (change_second_pad, "limb 0 of the second pad is one too large"),
        },
    )
