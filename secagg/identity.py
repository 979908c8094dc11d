"""Long-term identity keys of clients, and directories that vouch for them (malicious mode only).

In semi-malicious mode an `Identity` is drawn for the session, and no directory vouches for it.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from secagg.errors import LocalProtocolError
from secagg.params import MAX_CLIENT_ID, ClientId, Parameters
from secagg.primitives import signing
from secagg.primitives.entropy import EntropySource, draw


class Identity:
    """A client's long-term Ed25519 key pair. It is secret; the application stores `to_bytes` like a private key.

    Args:
        secret_key: 32 bytes.

    Raises:
        LocalProtocolError: ``secret_key`` is not 32 bytes.
    """

    __slots__ = ("_key", "_secret_key")

    def __init__(self, secret_key: bytes) -> None:
        if not isinstance(secret_key, bytes) or len(secret_key) != signing.KEY_BYTES:
            raise LocalProtocolError(f"the secret key of an identity must be {signing.KEY_BYTES} bytes")
        self._secret_key = secret_key
        self._key = signing.SigningKey(secret_key)

    @classmethod
    def generate(cls, entropy: EntropySource = os.urandom) -> "Identity":
        """Return a new identity."""
        return cls(draw(entropy, signing.KEY_BYTES))

    @property
    def public_key(self) -> bytes:
        """Return the public identity key, 32 bytes."""
        return self._key.public_key()

    def to_bytes(self) -> bytes:
        """Return the secret key, 32 bytes."""
        return self._secret_key

    def sign(self, statement: bytes) -> bytes:
        """Return the signature of a statement of the protocol, 64 bytes."""
        return self._key.sign(statement)

    def __repr__(self) -> str:
        return "Identity(<redacted>)"

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        raise TypeError("an Identity is not pickled; store its to_bytes() where secrets are kept")


@runtime_checkable
class KeyDirectory(Protocol):
    """Interface of a directory of identity keys. The application supplies it, from its public-key infrastructure.

    It must not depend on the server: a server that could answer for it could play all peers of a client.  A directory
    that learns keys does so in a second method (`LearningDirectory`), since it is also asked about keys of messages
    that are refused in the end.
    """

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Return whether ``identity_key`` (32 bytes, Ed25519) belongs to client ``client_id``."""
        ...


@runtime_checkable
class LearningDirectory(KeyDirectory, Protocol):
    """Interface of a directory that learns keys."""

    def learn(self, keys: Mapping[ClientId, bytes]) -> None:
        """Record keys that were trusted, from messages that broke no rule."""
        ...


def learn(directory: KeyDirectory | None, keys: Mapping[ClientId, bytes]) -> None:
    """Tell a learning directory about trusted keys."""
    if isinstance(directory, LearningDirectory):
        directory.learn(keys)


class PinnedKeys:
    """A directory of keys that were registered in advance.

    Args:
        keys: the public identity key of each client, 32 bytes.

    Raises:
        LocalProtocolError: an id or key is not valid, or two clients have the same key.
    """

    def __init__(self, keys: Mapping[ClientId, bytes]) -> None:
        self._keys = _checked(keys)

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Return whether it is the registered key."""
        return self._keys.get(client_id) == identity_key

    def __repr__(self) -> str:
        return f"PinnedKeys({len(self._keys)} clients)"


class TrustOnFirstUseWarning(UserWarning):
    """Warning that a key was trusted because it was the first one seen."""


class TrustOnFirstUse:
    """A directory that trusts the first key that it sees of each client, with a warning, and keeps it.

    It is safe only if the server was honest at that first time.  Save `keys` between sessions: a directory that forgets
    trusts any key again.  It learns nothing from a list of keys that a client refuses.

    Args:
        keys: the keys seen before.
    """

    def __init__(self, keys: Mapping[ClientId, bytes] | None = None) -> None:
        self._keys = _checked(keys or {})
        self._taken = set(self._keys.values())

    @property
    def keys(self) -> dict[ClientId, bytes]:
        """Return the keys seen so far, to be stored."""
        return dict(self._keys)

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Return whether it is the client's key of before, or its first key and not the key of another client."""
        known = self._keys.get(client_id)
        return identity_key not in self._taken if known is None else identity_key == known

    def learn(self, keys: Mapping[ClientId, bytes]) -> None:
        """Record the keys of new clients."""
        new = {i: key for i, key in keys.items() if i not in self._keys and self.is_trusted(i, key)}
        # Warn first: where warnings are errors, the key must not be learned.
        for client_id, key in new.items():
            warnings.warn(
                f"client {client_id} is new: its identity key {key.hex()} is taken on trust",
                TrustOnFirstUseWarning,
                stacklevel=2,
            )
        self._keys |= new
        self._taken.update(new.values())

    def __repr__(self) -> str:
        return f"TrustOnFirstUse({len(self._keys)} clients)"


def check_directory(params: Parameters, directory: KeyDirectory | None) -> None:
    """Raise LocalProtocolError unless there is a directory in malicious mode, and none in the other modes."""
    if params.has_identities and not isinstance(directory, KeyDirectory):
        raise LocalProtocolError("malicious mode needs a directory of identity keys, such as secagg.PinnedKeys")
    if not params.has_identities and directory is not None:
        raise LocalProtocolError(
            f"leave out the directory: only malicious mode takes one, not {params.adversary.value} mode"
        )


def check_identity(params: Parameters, identity: Identity | None) -> None:
    """Raise LocalProtocolError unless there is an identity in malicious mode, and none in the other modes."""
    if params.has_identities and not isinstance(identity, Identity):
        raise LocalProtocolError("malicious mode needs the client's identity, a secagg.Identity")
    if not params.has_identities and identity is not None:
        raise LocalProtocolError(
            f"leave out the identity: only malicious mode takes one, not {params.adversary.value} mode"
        )


def _checked(keys: Mapping[ClientId, bytes]) -> dict[ClientId, bytes]:
    if not isinstance(keys, Mapping):
        raise LocalProtocolError(f"a directory needs a mapping of ids to keys, not {type(keys).__name__}")
    for client_id, key in keys.items():
        if type(client_id) is not int or not 0 <= client_id <= MAX_CLIENT_ID:
            raise LocalProtocolError(f"a client id must be an int between 0 and {MAX_CLIENT_ID}, not {client_id!r}")
        if not isinstance(key, bytes) or not signing.is_valid_public_key(key):
            raise LocalProtocolError(f"the identity key of client {client_id} is not a valid Ed25519 public key")
    if len(set(keys.values())) != len(keys):
        raise LocalProtocolError("two clients have the same identity key")
    return dict(keys)
