"""Messages of a server that breaks the rules, each in a state in which a client receives it."""

from dataclasses import replace
from typing import Any

from secagg import Rule
from secagg.messages import Message

from .client_cases import SMALL_ORDER_KEY, Change, ClientCases, flipped, only, with_flag, with_item
from .negative_signed import refused_in_malicious_mode
from .replay import SessionFile
from .sessions import COMPLETE


def refused_by_clients(sessions: dict[str, SessionFile]) -> list[dict[str, Any]]:
    """Return the cases, each checked against the library."""
    found: list[dict[str, Any]] = []
    _lists_of_keys(ClientCases(sessions, COMPLETE, 17, found))
    _later_lists(ClientCases(sessions, COMPLETE, 17, found))
    _out_of_turn(ClientCases(sessions, COMPLETE, 17, found))
    refused_in_malicious_mode(sessions, found)
    return found


def _lists_of_keys(refuses: ClientCases) -> None:
    """Add cases of key lists; client 17 is the second of five."""
    own, ids = refuses.place, refuses.last("PeerKeys").client_ids

    def keep(*places: int) -> Change:
        def kept(m: Any) -> Message:
            keys = [[k[32 * p : 32 * p + 32] for p in places] for k in (m.channel_public_keys, m.mask_public_keys)]
            changed: Message = replace(
                m,
                client_ids=tuple(ids[p] for p in places),
                channel_public_keys=b"".join(keys[0]),
                mask_public_keys=b"".join(keys[1]),
            )
            return changed

        return kept

    kind = "PeerKeys"
    refuses(Rule.WRONG_SESSION, "another session id", kind, lambda m: replace(m, session_id=flipped(m.session_id)))
    refuses(Rule.SELF_MISSING, "the client itself is not listed", kind, keep(0, 2, 3, 4))
    refuses(Rule.SELF_MISSING, "nobody is listed", kind, keep())
    refuses(Rule.TOO_FEW_PEERS, "the client alone is listed", kind, keep(own))
    refuses(
        Rule.KEYS_OF_SELF_CHANGED,
        "another channel key of its own",
        kind,
        lambda m: replace(m, channel_public_keys=flipped(m.channel_public_keys, 32 * own)),
    )
    refuses(
        Rule.KEYS_OF_SELF_CHANGED,
        "another mask key of its own",
        kind,
        lambda m: replace(m, mask_public_keys=flipped(m.mask_public_keys, 32 * own)),
    )
    refuses(
        Rule.KEYS_NOT_DISTINCT,
        "one peer's channel key is another's mask key",
        kind,
        lambda m: replace(m, channel_public_keys=with_item(m.channel_public_keys, 0, m.mask_public_keys[64:96])),
    )
    refuses(
        Rule.KEYS_NOT_DISTINCT,
        "two peers have one mask key",
        kind,
        lambda m: replace(m, mask_public_keys=with_item(m.mask_public_keys, 0, m.mask_public_keys[64:96])),
    )
    refuses(
        Rule.INVALID_PUBLIC_KEY,
        "a mask key of small order",
        kind,
        lambda m: replace(m, mask_public_keys=with_item(m.mask_public_keys, 3, SMALL_ORDER_KEY)),
        culprits=(ids[3],),
    )
    not_canonical = (2**255 - 10).to_bytes(32, "little")
    refuses(
        Rule.INVALID_PUBLIC_KEY,
        "channel keys that are not canonical",
        kind,
        lambda m: replace(
            m,
            channel_public_keys=with_item(
                with_item(m.channel_public_keys, 0, not_canonical), 4, flipped(not_canonical)
            ),
        ),
        culprits=(ids[0], ids[4]),
    )


def _later_lists(refuses: ClientCases) -> None:
    own, ids = refuses.place, refuses.last("PeerKeys").client_ids
    kind = "PeerShares"
    refuses(Rule.WRONG_SESSION, "another session id", kind, lambda m: replace(m, session_id=flipped(m.session_id)))
    refuses(
        Rule.WRONG_SIZE,
        "a flag too few",
        kind,
        lambda m: replace(m, shared=m.shared[:-1], encrypted_shares=m.encrypted_shares[:-52]),
    )
    refuses(
        Rule.SELF_MISSING,
        "the client itself has no flag",
        kind,
        lambda m: replace(m, shared=with_flag(m.shared, own, False)),
    )
    refuses(
        Rule.TOO_FEW_PEERS,
        "nobody else has shared",
        kind,
        lambda m: replace(m, shared=only(5, own), encrypted_shares=b""),
    )
    refuses(
        Rule.WRONG_SIZE,
        "fewer encrypted shares than flags",
        kind,
        lambda m: replace(m, encrypted_shares=m.encrypted_shares[:-52]),
    )
    sharers = tuple(i for i, shares in zip(ids, refuses.last(kind).shared, strict=True) if shares and i != ids[own])
    refuses(
        Rule.TOO_FEW_VALID_SHARES,
        "no peer's shares authenticate",
        kind,
        lambda m: replace(m, encrypted_shares=bytes(len(m.encrypted_shares))),
        culprits=sharers,
    )
    refuses(
        Rule.TOO_FEW_VALID_SHARES,
        "the peers' shares in another order",
        kind,
        lambda m: replace(m, encrypted_shares=m.encrypted_shares[52:] + m.encrypted_shares[:52]),
        culprits=sharers,
    )
    kind = "SurvivorList"
    refuses(Rule.WRONG_SIZE, "a flag too few", kind, lambda m: replace(m, survivors=m.survivors[:-1]))
    refuses(
        Rule.SELF_MISSING, "the client itself", kind, lambda m: replace(m, survivors=with_flag(m.survivors, own, False))
    )
    refuses(Rule.TOO_FEW_PEERS, "the client alone", kind, lambda m: replace(m, survivors=only(5, own)))
    refuses(
        Rule.SURVIVORS_NOT_SUBSET,
        "client 1000, which did not share its keys",
        kind,
        lambda m: replace(m, survivors=with_flag(m.survivors, ids.index(1000), True)),
    )


def _out_of_turn(refuses: ClientCases) -> None:
    unexpected = Rule.UNEXPECTED_MESSAGE
    for kind, before in (
        ("PeerShares", "PeerKeys"),
        ("SurvivorList", "PeerKeys"),
        ("PeerKeys", "PeerShares"),
        ("SurvivorList", "PeerShares"),
        ("PeerKeys", "SurvivorList"),
        ("PeerShares", "SurvivorList"),
    ):
        refuses(unexpected, f"{kind} where {before} is awaited", kind, lambda m: m, before=before)
    refuses(unexpected, "PeerKeys after the end", "PeerKeys", lambda m: m, before="SurvivorList", after=True)
    refuses(Rule.REPEATED_REQUEST, "the same survivors once more", "SurvivorList", lambda m: m, after=True)
    refuses(
        Rule.SURVIVORS_CHANGED,
        "a second list, with another survivor",
        "SurvivorList",
        lambda m: replace(m, survivors=with_flag(m.survivors, 0, True)),
        after=True,
    )
