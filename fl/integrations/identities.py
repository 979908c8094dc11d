"""Identity keys of clients whose numbers change from session to session."""

from collections.abc import Iterable

from secagg import ClientId, LocalProtocolError, PinnedKeys


class EnrolledKeys:
    """A directory that trusts a set of keys, in any order of the clients.

    Frameworks draw new clients for each round, so a number does not identify a client.  The protocol refuses a key that
    occurs twice in a session.  So the clients of a session are distinct enrolled clients, which is enough to hide one
    among the others.

    Args:
        keys: the public identity keys of all clients that may take part, 32 bytes each.

    Raises:
        LocalProtocolError: a key is invalid or occurs twice.
    """

    def __init__(self, keys: Iterable[bytes]) -> None:
        if isinstance(keys, bytes | str) or not isinstance(keys, Iterable):
            raise LocalProtocolError("enrolled keys must be a collection of public keys of 32 bytes each")
        listed = list(keys)
        # This refuses invalid and duplicate keys.
        PinnedKeys(dict(enumerate(listed)))
        self._keys = frozenset(listed)

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Return whether this is one of the enrolled keys."""
        return identity_key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"EnrolledKeys({len(self._keys)} clients)"
