"""Check the server's messages. A message that breaks a rule aborts the client; the error names the rule."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import compress, islice, pairwise, repeat

import numpy as np

from secagg import statements
from secagg._client.neighborhood import Neighborhood, split
from secagg.errors import RemoteProtocolError, Rule
from secagg.identity import Identity, KeyDirectory, learn
from secagg.messages import ConsistencyProof, Flags, PeerKeys
from secagg.params import ClientId, Parameters
from secagg.primitives import agreement, signing
from secagg.primitives.agreement import KEY_BYTES
from secagg.primitives.digest import DIGEST_BYTES
from secagg.primitives.signing import SIGNATURE_BYTES


@dataclass(frozen=True, slots=True, repr=False)
class ClientSetup:
    """The constants of a session. Public but for the identity, which is the host's and is not suspended."""

    params: Parameters
    client_id: ClientId
    session_id: bytes
    identity: Identity | None = None
    directory: KeyDirectory | None = None

    def without_identity(self) -> "ClientSetup":
        """Return the setup of a client that will not sign any more."""
        return replace(self, identity=None, directory=None)


def check_peer_keys(message: PeerKeys, setup: ClientSetup, own_keys: tuple[bytes, bytes]) -> int:
    """Check the list of keys against all rules, and return this client's place in it."""
    ids, params = message.client_ids, setup.params
    _check_sizes(message, params)
    if any(first >= second for first, second in pairwise(ids)):
        raise RemoteProtocolError(Rule.IDS_NOT_ASCENDING)
    if setup.client_id not in ids:
        raise RemoteProtocolError(Rule.SELF_MISSING)
    if len(ids) > params.degree + 1:
        raise RemoteProtocolError(Rule.TOO_MANY_PEERS, f"{len(ids)}, but at most {params.degree + 1}")
    _check_enough(len(ids), setup)
    channel_keys = split(message.channel_public_keys, KEY_BYTES)
    mask_keys = split(message.mask_public_keys, KEY_BYTES)
    own_place = ids.index(setup.client_id)
    if (channel_keys[own_place], mask_keys[own_place]) != own_keys:
        raise RemoteProtocolError(Rule.KEYS_OF_SELF_CHANGED)
    if len({*channel_keys, *mask_keys}) != 2 * len(ids):
        raise RemoteProtocolError(Rule.KEYS_NOT_DISTINCT)
    invalid = [
        peer_id
        for peer_id, *keys in zip(ids, channel_keys, mask_keys, strict=True)
        if not all(map(agreement.is_valid_public_key, keys))
    ]
    _refuse(Rule.INVALID_PUBLIC_KEY, invalid)
    if setup.identity is not None:
        _check_identities(message, setup, setup.identity, own_place)
    return own_place


def _check_sizes(message: PeerKeys, params: Parameters) -> None:
    count = len(message.client_ids)
    sizes = (
        (message.channel_public_keys, KEY_BYTES),
        (message.mask_public_keys, KEY_BYTES),
        (message.identity_keys, signing.KEY_BYTES if params.is_signed else 0),
        (message.signatures, SIGNATURE_BYTES if params.is_signed else 0),
    )
    if any(len(items) != size * count for items, size in sizes):
        raise RemoteProtocolError(Rule.WRONG_SIZE, f"the keys do not match the {count} clients listed")


def _check_identities(message: PeerKeys, setup: ClientSetup, identity: Identity, own_place: int) -> None:
    """Check that each client's identity signed its keys; in malicious mode the directory must know the identity."""
    ids = message.client_ids
    identity_keys = split(message.identity_keys, signing.KEY_BYTES)
    if identity_keys[own_place] != identity.public_key:
        raise RemoteProtocolError(Rule.KEYS_OF_SELF_CHANGED)
    if len(set(identity_keys)) != len(ids):
        raise RemoteProtocolError(Rule.IDENTITY_NOT_DISTINCT)
    signed = zip(
        ids,
        identity_keys,
        split(message.signatures, SIGNATURE_BYTES),
        split(message.channel_public_keys, KEY_BYTES),
        split(message.mask_public_keys, KEY_BYTES),
        strict=True,
    )
    unsigned = [
        peer_id
        for peer_id, identity_key, signature, *keys in signed
        if not signing.verify(identity_key, signature, statements.advertised_keys(setup.session_id, peer_id, *keys))
    ]
    _refuse(Rule.INVALID_SIGNATURE, unsigned)
    # Last: a directory must learn no key from a list that is refused.
    if (directory := setup.directory) is not None:
        peers = {peer_id: key for peer_id, key in zip(ids, identity_keys, strict=True) if peer_id != setup.client_id}
        unknown = [peer_id for peer_id, key in peers.items() if not directory.is_trusted(peer_id, key)]
        _refuse(Rule.IDENTITY_NOT_TRUSTED, unknown)
        learn(directory, peers)


def check_flags(flags: Flags, client_ids: tuple[ClientId, ...], setup: ClientSetup) -> None:
    """Check the rules for all lists of clients: those that shared keys, survived, or signed."""
    if len(flags) != len(client_ids):
        raise RemoteProtocolError(Rule.WRONG_SIZE, f"{len(flags)} flags for {len(client_ids)} clients")
    if not flags[client_ids.index(setup.client_id)]:
        raise RemoteProtocolError(Rule.SELF_MISSING)
    _check_enough(sum(flags), setup)


@dataclass(frozen=True, slots=True, repr=False)
class View:
    """The neighbourhood in a client's view: the members, their keys, and how far each has come. Public."""

    neighborhood: Neighborhood
    shared: Flags
    survivors: Flags

    def members(self) -> list[bytes]:
        """Return the `statements.member` digest of each member, in the order of the ids."""
        standings = map(statements.standing, self.shared, self.survivors)
        return list(map(statements.member, self.neighborhood.split_key_digests(), standings))

    def all_digests_of_members(self) -> frozenset[bytes]:
        """Return all digests that could name a member of this view, with any standing."""
        keys = self.neighborhood.split_key_digests()
        return frozenset(statements.member(key, standing) for key in keys for standing in statements.Standing)


def check_consistency_proof(message: ConsistencyProof, setup: ClientSetup, view: View) -> None:
    """Check that a quorum signed views that agree with this client's, with this client and the signer as survivors.

    A client that answers after this check knows that its own mask key stays hidden: a quorum of its neighbours will
    release shares of its self-mask seed, and of no other secret.  Signatures of other views do not count, since the
    verified statement contains the view.
    """
    client_ids = view.neighborhood.client_ids
    check_flags(message.consistent, client_ids, setup)
    strangers = [
        peer_id
        for peer_id, signed, survives in zip(client_ids, message.consistent, view.survivors, strict=True)
        if signed and not survives
    ]
    if strangers:
        raise RemoteProtocolError(Rule.CONSISTENT_NOT_SUBSET, f"clients {listed(strangers)}", tuple(strangers))
    signers = [
        place
        for place, (peer_id, signed) in enumerate(zip(client_ids, message.consistent, strict=True))
        if signed and peer_id != setup.client_id
    ]
    if len(message.signatures) != SIGNATURE_BYTES * len(signers):
        raise RemoteProtocolError(Rule.WRONG_SIZE, f"the signatures do not match the {len(signers)} clients flagged")
    digests = _digests_of_views(message, setup, view, signers)
    keys = view.neighborhood.split_identity_keys()
    # This client's own signature counts. Stop at a quorum: each verification costs a tenth of a millisecond.
    valid, quorum = 1, setup.params.quorum
    for place, signature, digest in zip(signers, split(message.signatures, SIGNATURE_BYTES), digests, strict=True):
        if valid >= quorum:
            break
        statement = statements.view(setup.session_id, client_ids[place], digest)
        valid += signing.verify(keys[place], signature, statement)
    if valid < quorum:
        raise RemoteProtocolError(Rule.TOO_FEW_SIGNATURES, f"{valid} of the {quorum} needed")


def _digests_of_views(message: ConsistencyProof, setup: ClientSetup, view: View, signers: list[int]) -> Iterable[bytes]:
    """Return the digest that each signer's view must have if the signer sees the same as this client.

    ``signers`` are places in this client's neighbourhood.  All views are checked at once; each is hashed when its
    digest is needed.  The cost is O(k^2) for k peers, however small the server makes the overlap of the views.
    """
    members = view.members()
    if setup.params.is_complete:
        if message.common or message.others:
            raise RemoteProtocolError(Rule.WRONG_SIZE, "separate views on the complete graph")
        return repeat(statements.view_digest(setup.session_id, members), len(signers))
    flag_bytes = (len(members) + 7) // 8
    if len(message.common) != len(signers) * flag_bytes or len(message.others) % DIGEST_BYTES:
        raise RemoteProtocolError(Rule.WRONG_SIZE, f"the views do not match the {len(signers)} clients flagged")
    others = split(message.others, DIGEST_BYTES)
    # A common member must not be listed as one that only the signer knows: it could come with another standing.
    if not view.all_digests_of_members().isdisjoint(others):
        raise RemoteProtocolError(Rule.VIEWS_CONTRADICT)
    client_ids = view.neighborhood.client_ids
    own_place = client_ids.index(setup.client_id)
    rest = iter(others)
    views: list[list[bytes]] = []
    for place, flags in zip(signers, split(message.common, flag_bytes), strict=True):
        bits = int.from_bytes(flags, "little")
        if not bits >> own_place & 1:
            raise RemoteProtocolError(Rule.VIEWS_CONTRADICT, "without this client")
        # The signer must have the keys that this client was shown, since only their owner holds its shares. Otherwise a
        # second run of the signer under other keys, in the same session, would count.
        if not bits >> place & 1:
            raise RemoteProtocolError(Rule.VIEWS_CONTRADICT, f"without its signer, client {client_ids[place]}")
        seen = list(compress(members, np.unpackbits(np.frombuffer(flags, dtype=np.uint8), bitorder="little").tolist()))
        # All neighbourhoods of a graph have the same size.
        seen += islice(rest, len(members) - len(seen))
        if bits >> len(members) or len(seen) < len(members):
            raise RemoteProtocolError(Rule.WRONG_SIZE, "a view whose size differs from this client's")
        views.append(seen)
    if next(rest, None) is not None:
        raise RemoteProtocolError(Rule.WRONG_SIZE, "views whose size differs from this client's")
    return (statements.view_digest(setup.session_id, seen) for seen in views)


def _check_enough(num_clients: int, setup: ClientSetup) -> None:
    quorum = setup.params.quorum
    if num_clients < quorum:
        raise RemoteProtocolError(
            Rule.TOO_FEW_PEERS, f"{num_clients} including this client, but at least {quorum} are needed"
        )


def _refuse(rule: Rule, peer_ids: list[ClientId]) -> None:
    """Raise the rule's error if there are any peers."""
    if peer_ids:
        raise RemoteProtocolError(rule, f"of clients {listed(peer_ids)}", tuple(peer_ids))


def listed(client_ids: list[ClientId] | tuple[ClientId, ...]) -> str:
    """Return the first ten ids as text for an error."""
    shown = ", ".join(map(str, client_ids[:10]))
    return f"{shown} and {len(client_ids) - 10} more" if len(client_ids) > 10 else shown
