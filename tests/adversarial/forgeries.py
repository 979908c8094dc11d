"""Messages that a lying server makes up."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from secagg import statements
from secagg._client.neighborhood import split
from secagg.messages import AdvertiseKeys, ConsistencyCheck, ConsistencyProof, PeerKeys, PeerShares, SurvivorList
from secagg.primitives import signing
from secagg.primitives.agreement import KEY_BYTES
from secagg.primitives.signing import SIGNATURE_BYTES
from tests.adversarial.adversary import LyingServer


def survivor_list(server: LyingServer, client_id: int, survivors: Collection[int]) -> SurvivorList:
    """Return a list of these survivors that are in the client's neighbourhood."""
    listed = server.told[PeerKeys][client_id].client_ids
    return SurvivorList(server.session_id, tuple(peer_id in survivors for peer_id in listed))


def peer_keys(server: LyingServer, advertised: Mapping[int, AdvertiseKeys]) -> PeerKeys:
    """Return a list of these clients, whether their keys are real or made up."""
    ids = sorted(advertised)
    return PeerKeys(
        server.session_id,
        tuple(ids),
        *(
            b"".join(getattr(advertised[client_id], name) for client_id in ids)
            for name in ("channel_public_key", "mask_public_key", "identity_key", "signature")
        ),
    )


def members_of(server: LyingServer, client_id: int) -> list[bytes]:
    """Return the digests of the members in the view that this client signed, in the order of its list."""
    keys = server.told[PeerKeys][client_id]
    return [
        statements.member(
            statements.keys_digest(server.session_id, peer_id, *its_keys), statements.standing(shared, survives)
        )
        for peer_id, *its_keys, shared, survives in zip(
            keys.client_ids,
            split(keys.identity_keys, signing.KEY_BYTES),
            split(keys.channel_public_keys, KEY_BYTES),
            split(keys.mask_public_keys, KEY_BYTES),
            server.told[PeerShares][client_id].shared,
            server.told[SurvivorList][client_id].survivors,
            strict=True,
        )
    ]


def consistency_proof(
    server: LyingServer,
    receiver: int,
    signers: Collection[int],
    signatures: Mapping[int, bytes] | None = None,
    runs: Mapping[int, LyingServer] | None = None,
) -> ConsistencyProof:
    """Return the best proof for ``receiver`` that can be made from the signatures of these peers.

    On a sparse graph, members of a signer's view that are not in the receiver's view are presented as members that the
    receiver does not know.  ``runs``: for a peer that took part in this session twice, the other run, to be used
    instead.
    """
    listed = server.told[PeerKeys][receiver].client_ids
    run_of = {**dict.fromkeys(listed, server), **(runs or {})}
    flagged = [peer_id for peer_id in listed if peer_id in signers and peer_id != receiver]
    if signatures is None:
        signatures = {peer_id: run_of[peer_id].sent[ConsistencyCheck][peer_id].signature for peer_id in flagged}
    common, others = b"", b""
    if not server.params.is_complete:
        own = members_of(server, receiver)
        for peer_id in flagged:
            view = members_of(run_of[peer_id], peer_id)
            flags = np.array([member in view for member in own])
            common += np.packbits(flags, bitorder="little").tobytes()
            others += b"".join(member for member in view if member not in own)
    return ConsistencyProof(
        server.session_id,
        tuple(peer_id == receiver or peer_id in flagged for peer_id in listed),
        b"".join(signatures[peer_id] for peer_id in flagged),
        common,
        others,
    )


def with_key_of(message: PeerKeys, client_id: int, name: str, key: bytes) -> PeerKeys:
    """Return the list with another key, identity key or signature for one client."""
    items = getattr(message, name)
    size = SIGNATURE_BYTES if name == "signatures" else KEY_BYTES
    place = message.client_ids.index(client_id)
    return replace(message, **{name: items[: size * place] + key + items[size * (place + 1) :]})
