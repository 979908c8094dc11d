"""Messages of a server that breaks the rules of malicious mode."""

from dataclasses import replace
from typing import Any

from secagg import Rule, statements
from secagg.messages import Message

from .client_cases import Change, ClientCases, flipped, with_flag, with_item
from .recorder import identity_of
from .replay import SessionFile
from .sessions import MALICIOUS, SPARSE_MALICIOUS


def refused_in_malicious_mode(sessions: dict[str, SessionFile], found: list[dict[str, Any]]) -> None:
    """Add the cases, each checked against the library."""
    _identities(ClientCases(sessions, MALICIOUS, 2, found))
    _proofs(ClientCases(sessions, MALICIOUS, 2, found))
    _views(ClientCases(sessions, SPARSE_MALICIOUS, 40, found))


def _identities(refuses: ClientCases) -> None:
    """Add cases of identities; client 2 is the second of seven."""
    own, kind = refuses.place, "PeerKeys"
    ids = refuses.last(kind).client_ids

    def of_stranger(m: Any) -> Message:
        stranger = identity_of(999)
        keys = (m.channel_public_keys[96:128], m.mask_public_keys[96:128])
        signature = stranger.sign(statements.advertised_keys(m.session_id, ids[3], *keys))
        changed: Message = replace(
            m,
            identity_keys=with_item(m.identity_keys, 3, stranger.public_key),
            signatures=with_item(m.signatures, 3, signature),
        )
        return changed

    refuses(
        Rule.KEYS_OF_SELF_CHANGED,
        "another identity key of its own",
        kind,
        lambda m: replace(m, identity_keys=flipped(m.identity_keys, 32 * own)),
    )
    refuses(
        Rule.IDENTITY_NOT_DISTINCT,
        "two peers have one identity key",
        kind,
        lambda m: replace(m, identity_keys=with_item(m.identity_keys, 0, m.identity_keys[64:96])),
    )
    refuses(
        Rule.INVALID_SIGNATURE,
        "a signature is not of these keys",
        kind,
        lambda m: replace(m, signatures=flipped(m.signatures, 64 * 4)),
        culprits=(ids[4],),
    )
    refuses(
        Rule.INVALID_SIGNATURE,
        "two peers' mask keys are exchanged",
        kind,
        lambda m: replace(
            m,
            mask_public_keys=with_item(
                with_item(m.mask_public_keys, 4, m.mask_public_keys[160:192]), 5, m.mask_public_keys[128:160]
            ),
        ),
        culprits=(ids[4], ids[5]),
    )
    refuses(
        Rule.IDENTITY_NOT_TRUSTED,
        "keys that a stranger signed in a peer's place",
        kind,
        of_stranger,
        culprits=(ids[3],),
    )


def _proofs(refuses: ClientCases) -> None:
    """Add cases of proofs: client 8, at place 3, has not survived; a quorum is 4."""
    own, kind = refuses.place, "ConsistencyProof"
    ids = refuses.last("PeerKeys").client_ids

    refuses(Rule.UNEXPECTED_MESSAGE, "a proof where the list is awaited", kind, lambda m: m, before="SurvivorList")
    refuses(
        Rule.SURVIVORS_CHANGED,
        "another list of survivors where the proof is awaited",
        "SurvivorList",
        lambda m: replace(m, survivors=with_flag(m.survivors, 0, False)),
        before=kind,
    )
    refuses(Rule.REPEATED_REQUEST, "the list once more", "SurvivorList", lambda m: m, before=kind)
    refuses(Rule.REPEATED_REQUEST, "the proof once more", kind, lambda m: m, after=True)
    refuses(
        Rule.SELF_MISSING,
        "the client itself has no flag",
        kind,
        lambda m: replace(m, consistent=with_flag(m.consistent, own, False)),
    )
    refuses(
        Rule.CONSISTENT_NOT_SUBSET,
        "a signature of one that did not survive",
        kind,
        lambda m: replace(m, consistent=with_flag(m.consistent, 3, True), signatures=m.signatures + bytes(64)),
        culprits=(ids[3],),
    )
    refuses(Rule.WRONG_SIZE, "a signature too few", kind, lambda m: replace(m, signatures=m.signatures[64:]))
    few = (False, True, True, False, True, False, False)
    refuses(
        Rule.TOO_FEW_PEERS,
        "flags of three",
        kind,
        lambda m: replace(m, consistent=few, signatures=m.signatures[:128]),
    )
    refuses(
        Rule.TOO_FEW_SIGNATURES,
        "three of five signatures are of nothing",
        kind,
        lambda m: replace(m, signatures=bytes(192) + m.signatures[192:]),
    )
    refuses(
        Rule.TOO_FEW_SIGNATURES,
        "the signatures in another order",
        kind,
        lambda m: replace(m, signatures=m.signatures[64:] + m.signatures[:64]),
    )


def _views(refuses: ClientCases) -> None:
    """Add cases of views: on the sparse graph a proof also says how signers' views differ from the receiver's."""
    kind = "ConsistencyProof"
    refuses(
        Rule.TOO_FEW_SIGNATURES,
        "other members that the signers do not have",
        kind,
        lambda m: replace(m, others=bytes(len(m.others))),
    )
    refuses(Rule.WRONG_SIZE, "a digest of another member too few", kind, lambda m: replace(m, others=m.others[32:]))
    refuses(
        Rule.WRONG_SIZE, "a digest of another member too many", kind, lambda m: replace(m, others=m.others + bytes(32))
    )
    refuses(
        Rule.WRONG_SIZE,
        "a member in common that is none of the seven",
        kind,
        lambda m: replace(m, common=bytes([m.common[0] | 0x80]) + m.common[1:]),
    )
    own = refuses.place

    def without_receiver(m: Any) -> Message:
        # As large as before: a digest of no client takes the receiver's place.
        changed: Message = replace(
            m, common=bytes([m.common[0] & ~(1 << own)]) + m.common[1:], others=bytes(32) + m.others
        )
        return changed

    refuses(Rule.VIEWS_CONTRADICT, "the first signer's view is without the receiver", kind, without_receiver)
    keys = refuses.last("PeerKeys")
    known = [
        statements.keys_digest(
            keys.session_id,
            client_id,
            keys.identity_keys[at : at + 32],
            keys.channel_public_keys[at : at + 32],
            keys.mask_public_keys[at : at + 32],
        )
        for client_id, at in zip(keys.client_ids, range(0, 7 * 32, 32), strict=True)
    ]
    standings = list(
        map(statements.standing, refuses.last("PeerShares").shared, refuses.last("SurvivorList").survivors)
    )

    def by_an_earlier_run(m: Any) -> Message:
        # The first signer took part in this session before, with other keys: here, its own two exchanged.
        signer = next(place for place, flag in enumerate(m.consistent) if flag and place != own)
        signer_id, at = keys.client_ids[signer], slice(32 * signer, 32 * signer + 32)
        earlier_keys = (keys.identity_keys[at], keys.mask_public_keys[at], keys.channel_public_keys[at])
        earlier = statements.member(
            statements.keys_digest(m.session_id, signer_id, *earlier_keys), statements.Standing.SURVIVED
        )
        both_know = m.common[0] & ~(1 << signer)
        view = [statements.member(known[place], standings[place]) for place in range(7) if both_know >> place & 1]
        only_the_signer = [m.others[32 * i : 32 * i + 32] for i in range(7 - m.common[0].bit_count())]
        digest = statements.view_digest(m.session_id, [*view, earlier, *only_the_signer])
        signature = identity_of(signer_id).sign(statements.view(m.session_id, signer_id, digest))
        changed: Message = replace(
            m,
            signatures=signature + m.signatures[64:],
            common=bytes([both_know]) + m.common[1:],
            others=earlier + m.others,
        )
        return changed

    refuses(
        Rule.VIEWS_CONTRADICT,
        "the first signer signed under other keys than the receiver was shown",
        kind,
        by_an_earlier_run,
    )
    peer = 0 if own else 1

    def with_other(digest: bytes) -> Change:
        return lambda m: replace(m, others=digest + m.others[32:])

    for standing in statements.Standing:
        refuses(
            Rule.VIEWS_CONTRADICT,
            f"a member that the receiver knows, among the others, as one that has {standing.name.lower()}",
            kind,
            with_other(statements.member(known[peer], standing)),
        )
