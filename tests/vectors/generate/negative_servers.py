"""Messages of clients that break the rules, each in a state in which the server receives it."""

from dataclasses import replace
from typing import Any

from secagg import ClientDropped, DropReason, decode_client_message, encode, statements
from secagg.messages import Message

from .client_cases import SMALL_ORDER_KEY, Change, flipped
from .layout import parameters_from
from .recorder import identity_of
from .replay import SessionFile, message_of, server_before, step_of
from .sessions import COMPLETE, MALICIOUS, SPARSE_MALICIOUS


class _Cases:
    """Collects the cases of one session."""

    def __init__(self, sessions: dict[str, SessionFile], file: str, found: list[dict[str, Any]]) -> None:
        self._session, self._file, self._found = sessions[file], file, found
        self._params = parameters_from(self._session["parameters"])

    def message(self, kind: str, client_id: int) -> Any:
        """Return this client's message."""
        return message_of(self._session, step_of(self._session, kind, client_id, "server"))

    def __call__(
        self,
        reason: DropReason,
        words: str,
        client_id: int,
        kind: str,
        change: Change = lambda message: message,
        *,
        before: str | None = None,
        after: bool = False,
        of: int | None = None,
    ) -> None:
        """Give the server ``change`` of a client's message, before (after) the one of the type ``before``.

        With ``of``, the message and its moment are another client's.
        """
        owner = client_id if of is None else of
        step = step_of(self._session, before or kind, owner, "server")["step"] + after
        data = encode(change(self.message(kind, owner)), self._params)
        server = server_before(self._session, step)
        events = server.receive(client_id, decode_client_message(data, self._params))
        dropped = [(e.client_id, e.reason, e.round) for e in events if isinstance(e, ClientDropped)]
        if dropped != [(client_id, reason, server.round)]:
            raise AssertionError(f"{words}: {events}")
        self._found.append(
            {
                "session": self._file,
                "client_id": client_id,
                "before_step": step,
                "reason": words,
                "message": data,
                "drop_reason": reason.name,
            }
        )


def refused_by_servers(sessions: dict[str, SessionFile]) -> list[dict[str, Any]]:
    """Return the cases, each checked against the library."""
    found: list[dict[str, Any]] = []
    _keys(_Cases(sessions, COMPLETE, found))
    _rounds(_Cases(sessions, COMPLETE, found))
    _identities(_Cases(sessions, MALICIOUS, found))
    _sparse(_Cases(sessions, SPARSE_MALICIOUS, found))
    return found


def _keys(drops: _Cases) -> None:
    kind = "AdvertiseKeys"
    first = drops.message(kind, 3)
    drops(DropReason.UNKNOWN_CLIENT, "from a client that is not on the list", 4, kind, of=17)
    drops(
        DropReason.WRONG_SESSION,
        "another session id",
        17,
        kind,
        lambda m: replace(m, session_id=flipped(m.session_id)),
    )
    drops(
        DropReason.INVALID_PUBLIC_KEY,
        "a channel key of small order",
        17,
        kind,
        lambda m: replace(m, channel_public_key=SMALL_ORDER_KEY),
    )
    drops(
        DropReason.INVALID_PUBLIC_KEY,
        "a mask key with the unused bit set",
        17,
        kind,
        lambda m: replace(m, mask_public_key=m.mask_public_key[:-1] + bytes([m.mask_public_key[-1] | 0x80])),
    )
    drops(
        DropReason.KEY_NOT_DISTINCT,
        "one key as both",
        17,
        kind,
        lambda m: replace(m, mask_public_key=m.channel_public_key),
    )
    drops(
        DropReason.KEY_NOT_DISTINCT,
        "client 3's mask key as channel key",
        17,
        kind,
        lambda m: replace(m, channel_public_key=first.mask_public_key),
    )
    drops(DropReason.DUPLICATE, "keys once more", 17, kind, after=True)


def _rounds(drops: _Cases) -> None:
    unexpected = DropReason.UNEXPECTED_MESSAGE
    drops(unexpected, "shares before keys", 17, "ShareKeys", before="AdvertiseKeys")
    drops(unexpected, "keys again, in the next round", 17, "AdvertiseKeys", before="ShareKeys")
    drops(unexpected, "a masked input where shares are awaited", 17, "MaskedInput", before="ShareKeys")
    drops(unexpected, "shares of masks where a masked input is awaited", 17, "UnmaskingShares", before="MaskedInput")
    kind = "ShareKeys"
    drops(
        DropReason.WRONG_SIZE,
        "encrypted shares for too few",
        17,
        kind,
        lambda m: replace(m, encrypted_shares=m.encrypted_shares[52:]),
    )
    drops(DropReason.DUPLICATE, "shares once more", 17, kind, after=True)
    drops(DropReason.DUPLICATE, "a masked input once more", 17, "MaskedInput", after=True)
    kind = "UnmaskingShares"
    drops(
        DropReason.WRONG_SIZE,
        "a flag too few",
        17,
        kind,
        lambda m: replace(m, held=m.held[:-1], shares=m.shares[: sum(m.held[:-1])]),
    )
    drops(
        DropReason.WRONG_SIZE,
        "a share of client 1000, which did not share its keys",
        17,
        kind,
        lambda m: replace(m, held=(True,) * 5, shares=m.shares[[0, 1, 1, 2, 3]]),
    )
    drops(DropReason.WRONG_SIZE, "a pairwise key too few", 17, kind, lambda m: replace(m, pairwise_keys=b""))
    drops(
        DropReason.WRONG_SIZE,
        "a pairwise key too many",
        17,
        kind,
        lambda m: replace(m, pairwise_keys=2 * m.pairwise_keys),
    )


def _identities(drops: _Cases) -> None:
    kind = "AdvertiseKeys"

    def signed_by(name: int, client_id: int) -> Change:
        def change(m: Any) -> Message:
            identity = identity_of(name)
            statement = statements.advertised_keys(m.session_id, client_id, m.channel_public_key, m.mask_public_key)
            changed: Message = replace(m, identity_key=identity.public_key, signature=identity.sign(statement))
            return changed

        return change

    drops(
        DropReason.INVALID_SIGNATURE,
        "a signature of nothing",
        2,
        kind,
        lambda m: replace(m, signature=flipped(m.signature, 40)),
    )
    drops(
        DropReason.INVALID_SIGNATURE,
        "client 5's identity key and signature, of other keys",
        2,
        kind,
        _rekeyed(drops.message(kind, 5)),
    )
    drops(DropReason.IDENTITY_NOT_DISTINCT, "signed by client 1, which has advertised", 2, kind, signed_by(1, 2))
    drops(DropReason.IDENTITY_NOT_TRUSTED, "signed by a stranger", 2, kind, signed_by(999, 2))
    kind = "ConsistencyCheck"
    drops(
        DropReason.INVALID_SIGNATURE,
        "another client's signature of the same survivors",
        5,
        kind,
        lambda m: drops.message("ConsistencyCheck", 1),
    )
    drops(DropReason.UNEXPECTED_MESSAGE, "shares before signatures", 5, "UnmaskingShares", before=kind)
    drops(DropReason.DUPLICATE, "a signature once more", 5, kind, after=True)


def _rekeyed(other: Any) -> Change:
    """Return another client's identity and signature, of its own keys, with this client's."""
    return lambda m: replace(m, identity_key=other.identity_key, signature=other.signature)


def _sparse(drops: _Cases) -> None:
    drops(
        DropReason.WRONG_SIZE,
        "encrypted shares for too few neighbours",
        40,
        "ShareKeys",
        lambda m: replace(m, encrypted_shares=m.encrypted_shares[52:]),
    )
    drops(
        DropReason.WRONG_SIZE,
        "a flag too few",
        40,
        "UnmaskingShares",
        lambda m: replace(m, held=m.held[:-1], shares=m.shares[: sum(m.held[:-1])]),
    )
    drops(
        DropReason.WRONG_SIZE,
        "a share of its own secret, which nobody holds on a sparse graph",
        40,
        "UnmaskingShares",
        lambda m: replace(m, held=(True,) * 7, shares=m.shares[[0, *range(6)]]),
    )
