"""Messages that a lying server makes from those that it received, and the rules that its forged views would break."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Flag, auto
from random import Random

from secagg import statements
from secagg._client.neighborhood import split
from secagg.messages import ConsistencyCheck, ConsistencyProof, PeerKeys
from secagg.primitives import signing
from secagg.primitives.digest import DIGEST_BYTES
from secagg.primitives.signing import SIGNATURE_BYTES
from secagg.statements import Standing
from tests.adversarial.lies.ledger import Run
from tests.support.sessions import identity_of

KEY_FIELDS = ("channel_public_key", "mask_public_key", "identity_key", "signature")


def peer_keys(session_id: bytes, runs: Sequence[Run]) -> PeerKeys:
    """Return a list of these runs' keys."""
    ordered = sorted(runs, key=lambda run: run.client_id)
    keys = (b"".join(getattr(run.keys, name) for run in ordered) for name in KEY_FIELDS)
    return PeerKeys(session_id, tuple(run.client_id for run in ordered), *keys)


def with_key(message: PeerKeys, client_id: int, name: str, key: bytes) -> PeerKeys:
    """Return the list with one key, identity key or signature of one client changed."""
    items = getattr(message, name)
    size = SIGNATURE_BYTES if name == "signatures" else signing.KEY_BYTES
    at = size * message.client_ids.index(client_id)
    return replace(message, **{name: items[:at] + key + items[at + size :]})


class Rules(Flag):
    """Rules of a client for a view that another client signed, on a sparse graph."""

    NONE = 0
    RECEIVER = auto()
    """The client itself is in it, as a survivor with its own keys."""
    SIGNER = auto()
    """The signer is in it, with the keys that the client knows."""
    OTHERS = auto()
    """No client that the client knows has another standing in it."""
    ALL = RECEIVER | SIGNER | OTHERS


@dataclass(frozen=True)
class Vote:
    """A signature of a view, by one run of a client or made for a corrupt client."""

    signature: bytes
    members: tuple[bytes, ...]
    is_old: bool = False


def votes_of(peer_id: int, runs: Sequence[Run]) -> list[Vote]:
    """Return the signatures of a client in a session, in all its runs; the newest first."""
    signed = [run for run in runs if run.client_id == peer_id and ConsistencyCheck in run.heard]
    return [
        Vote(run.heard[ConsistencyCheck].signature, tuple(run.members()), is_old=run is not signed[-1])
        for run in reversed(signed)
    ]


def corrupt_vote(receiver: Run, signer: Run) -> Vote:
    """Return a corrupt client's signature of the view that the receiver expects."""
    members = receiver.members()
    digest = statements.view_digest(receiver.session_id, members)
    assert signer.entropy is not None
    identity = identity_of(signer.client_id)
    if not receiver.params.has_identities:
        identity = type(identity)(signer.entropy.draws[4])
    return Vote(identity.sign(statements.view(receiver.session_id, signer.client_id, digest)), tuple(members))


def broken_rules(receiver: Run, peer_id: int, vote: Vote) -> Rules:
    """Return which of the rules a vote breaks for this receiver."""
    own, view = receiver.members(), set(vote.members)
    if receiver.params.is_complete:
        return Rules.NONE if view == set(own) else Rules.OTHERS
    broken = Rules.NONE
    if own[receiver.listed.index(receiver.client_id)] not in view:
        broken |= Rules.RECEIVER
    if own[receiver.listed.index(peer_id)] not in view:
        broken |= Rules.SIGNER
    others = view - set(own)
    if len(view) != len(own) or any(
        statements.member(keys, standing) in others for keys in receiver.member_keys() for standing in Standing
    ):
        broken |= Rules.OTHERS
    return broken


def consistency_proof(receiver: Run, votes: Mapping[int, Vote]) -> ConsistencyProof:
    """Return the best proof from these votes: a client that is not in both views is presented as a stranger."""
    own = receiver.members()
    flagged = [peer_id for peer_id in receiver.listed if peer_id in votes and peer_id != receiver.client_id]
    common, others = b"", b""
    if not receiver.params.is_complete:
        for peer_id in flagged:
            members = votes[peer_id].members
            bits = sum(1 << place for place, member in enumerate(own) if member in members)
            common += bits.to_bytes(_flag_bytes(receiver), "little")
            others += b"".join(member for member in members if member not in own)
    return ConsistencyProof(
        receiver.session_id,
        tuple(peer_id == receiver.client_id or peer_id in flagged for peer_id in receiver.listed),
        b"".join(votes[peer_id].signature for peer_id in flagged),
        common,
        others,
    )


def _flag_bytes(receiver: Run) -> int:
    return (len(receiver.listed) + 7) // 8


def scrambled(proof: ConsistencyProof, receiver: Run, rng: Random) -> ConsistencyProof:
    """Return the proof with other views: members hidden among the others, or moved, or flags that were not set."""
    common, size = split(proof.common, _flag_bytes(receiver)), _flag_bytes(receiver)
    others = split(proof.others, DIGEST_BYTES)
    if not common:
        return replace(proof, signatures=proof.signatures[::-1])
    at = rng.randrange(len(common))
    bits = int.from_bytes(common[at], "little")
    place = rng.randrange(len(receiver.listed))
    member = receiver.members()[place]
    common[at] = (bits ^ 1 << place).to_bytes(size, "little")
    if bits >> place & 1:
        # Common members of later views come after those of earlier ones.
        others.insert(rng.randrange(len(others) + 1), member)
    elif others:
        others.pop(rng.randrange(len(others)))
    return replace(proof, common=b"".join(common), others=b"".join(others))


def forged(proof: ConsistencyProof, rng: Random) -> ConsistencyProof:
    """Return the proof with signatures that are made up, or in the wrong places."""
    signatures = split(proof.signatures, SIGNATURE_BYTES)
    if len(signatures) > 1 and rng.random() < 0.5:
        rng.shuffle(signatures)
    elif signatures:
        signatures[rng.randrange(len(signatures))] = rng.randbytes(SIGNATURE_BYTES)
    return replace(proof, signatures=b"".join(signatures))
