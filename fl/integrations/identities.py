"""Identity keys of clients whose numbers change from session to session."""

from collections.abc import Iterable

from secagg import ClientId, LocalProtocolError, PinnedKeys


class EnrolledKeys:
    """A directory that trusts a set of keys, whoever of their owners has which number in a session.

    Frameworks draw the clients of each round anew, so a client's number says nothing about who it is.  The protocol
    takes no key twice in a session, so each of its clients is another one of those enrolled, which is all that hiding
    among them needs.

    Args:
        keys: the public identity keys of all that may take part, 32 bytes each.

    Raises:
        LocalProtocolError: a key that is none, or one that is there twice.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        if isinstance(keys, bytes | str) or not isinstance(keys, Iterable):
            raise LocalProtocolError("enrolled keys are a collection of public keys, 32 bytes each")
        listed = list(keys)
        # Refuses what is no key, and duplicates.
        PinnedKeys(dict(enumerate(listed)))
        self._keys = frozenset(listed)

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Whether it is one of the enrolled keys."""
        return identity_key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"EnrolledKeys({len(self._keys)} clients)"
