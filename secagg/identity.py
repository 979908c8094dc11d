"""Who a client is beyond one session: its identity key, and who vouches for it (malicious mode only).

In semi-malicious mode an `Identity` is drawn for the session and nobody vouches for it.
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
    """A client's long-term Ed25519 key pair. Secret; the application stores `to_bytes` as it stores a private key.

    Args:
        secret_key: 32 bytes.

    Raises:
        LocalProtocolError: ``secret_key`` is anything else.
    """

    __slots__ = ("_key", "_secret_key")

    def __init__(self, secret_key: bytes) -> None:
        if not isinstance(secret_key, bytes) or len(secret_key) != signing.KEY_BYTES:
            raise LocalProtocolError(f"an identity's secret key is {signing.KEY_BYTES} bytes")
        self._secret_key = secret_key
        self._key = signing.SigningKey(secret_key)

    @classmethod
    def generate(cls, entropy: EntropySource = os.urandom) -> "Identity":
        """A new identity."""
        return cls(draw(entropy, signing.KEY_BYTES))

    @property
    def public_key(self) -> bytes:
        """What others know this client by, 32 bytes."""
        return self._key.public_key()

    def to_bytes(self) -> bytes:
        """The secret key, 32 bytes."""
        return self._secret_key

    def sign(self, statement: bytes) -> bytes:
        """The signature of one of the protocol's statements, 64 bytes."""
        return self._key.sign(statement)

    def __repr__(self) -> str:
        return "Identity(<redacted>)"

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        raise TypeError("an Identity is not pickled; store its to_bytes() where secrets are kept")


@runtime_checkable
class KeyDirectory(Protocol):
    """Knows whose identity key is whose. The application supplies it: a public-key infrastructure behind one question.

    A server that could answer it in the clients' stead could also play all of their peers.  A directory that learns
    keys does so in a second method, see `LearningDirectory`: it is asked about keys that are refused in the end, too.
    """

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Whether ``identity_key`` (32 bytes, Ed25519) is that of client ``client_id``."""
        ...


@runtime_checkable
class LearningDirectory(KeyDirectory, Protocol):
    """A directory that takes note of keys."""

    def learn(self, keys: Mapping[ClientId, bytes]) -> None:
        """Take note of keys that were trusted, and that came in messages which broke no rule."""
        ...


def learn(directory: KeyDirectory | None, keys: Mapping[ClientId, bytes]) -> None:
    """Tell a directory that learns."""
    if isinstance(directory, LearningDirectory):
        directory.learn(keys)


class PinnedKeys:
    """A directory of keys that were registered before.

    Args:
        keys: each client's public identity key, 32 bytes.

    Raises:
        LocalProtocolError: an id or a key that is none, or one key for two clients.
    """

    def __init__(self, keys: Mapping[ClientId, bytes]) -> None:
        self._keys = _checked(keys)

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Whether it is the registered key."""
        return self._keys.get(client_id) == identity_key

    def __repr__(self) -> str:
        return f"PinnedKeys({len(self._keys)} clients)"


class TrustOnFirstUseWarning(UserWarning):
    """A key was taken on trust: nobody vouched for it."""


class TrustOnFirstUse:
    """A directory that takes the first key it sees of each client, with a warning, and holds on to it.

    Safe only if the server was honest at that first time.  Save `keys` between sessions: a directory that forgets
    trusts everybody again.  Nothing is learned from a list of keys that a client refuses.

    Args:
        keys: what was seen before.
    """

    def __init__(self, keys: Mapping[ClientId, bytes] | None = None) -> None:
        self._keys = _checked(keys or {})
        self._taken = set(self._keys.values())

    @property
    def keys(self) -> dict[ClientId, bytes]:
        """What has been seen so far, to be stored."""
        return dict(self._keys)

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Whether it is the key that this client had before, or the first one of it and nobody else's."""
        known = self._keys.get(client_id)
        return identity_key not in self._taken if known is None else identity_key == known

    def learn(self, keys: Mapping[ClientId, bytes]) -> None:
        """Take the keys of clients that are new."""
        new = {i: key for i, key in keys.items() if i not in self._keys and self.is_trusted(i, key)}
        # Where warnings are errors, nothing is learned.
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
    """LocalProtocolError unless there is a directory in malicious mode, and none in the others."""
    if params.has_identities and not isinstance(directory, KeyDirectory):
        raise LocalProtocolError("malicious mode needs a directory of identity keys, such as secagg.PinnedKeys")
    if not params.has_identities and directory is not None:
        raise LocalProtocolError(f"a directory is for malicious mode, not {params.adversary.value}")


def check_identity(params: Parameters, identity: Identity | None) -> None:
    """LocalProtocolError unless there is an identity in malicious mode, and none in the others."""
    if params.has_identities and not isinstance(identity, Identity):
        raise LocalProtocolError("malicious mode needs the client's identity, a secagg.Identity")
    if not params.has_identities and identity is not None:
        raise LocalProtocolError(f"an identity is for malicious mode, not {params.adversary.value}")


def _checked(keys: Mapping[ClientId, bytes]) -> dict[ClientId, bytes]:
    if not isinstance(keys, Mapping):
        raise LocalProtocolError(f"a directory takes a mapping of ids to keys, not {type(keys).__name__}")
    for client_id, key in keys.items():
        if type(client_id) is not int or not 0 <= client_id <= MAX_CLIENT_ID:
            raise LocalProtocolError(f"a client id is an int between 0 and {MAX_CLIENT_ID}, not {client_id!r}")
        if not isinstance(key, bytes) or not signing.is_valid_public_key(key):
            raise LocalProtocolError(f"the identity key of client {client_id} is no usable Ed25519 public key")
    if len(set(keys.values())) != len(keys):
        raise LocalProtocolError("two clients have one identity key")
    return dict(keys)
