"""The server's round AdvertiseKeys (paper, figure 4, round 0): collect the public keys, build the graph."""

import numpy as np
import numpy.typing as npt

from secagg import statements
from secagg._server.share_keys import ShareKeysRound
from secagg._server.stage import Closing, Roster, ServerSetup, Stage, too_few
from secagg.events import DropReason, Round, Send, ServerEvent
from secagg.identity import learn
from secagg.messages import AdvertiseKeys, ClientMessage, PeerKeys
from secagg.params import ClientId
from secagg.primitives import signing
from secagg.primitives.agreement import is_valid_public_key


class AdvertiseKeysRound(Stage):
    round = Round.ADVERTISE_KEYS

    def __init__(self, setup: ServerSetup, client_ids: frozenset[ClientId]) -> None:
        super().__init__(client_ids)
        self._setup = setup
        self._keys: dict[ClientId, AdvertiseKeys] = {}
        self._seen: set[bytes] = set()
        self._identities: set[bytes] = set()

    @property
    def ready(self) -> bool:
        return len(self._keys) >= self._setup.params.quorum

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, AdvertiseKeys):
            return DropReason.UNEXPECTED_MESSAGE
        keys = (message.channel_public_key, message.mask_public_key)
        if not all(map(is_valid_public_key, keys)):
            return DropReason.INVALID_PUBLIC_KEY
        # Keys of a dropped client stay taken: a client that repeats them has copied them.
        if keys[0] == keys[1] or not self._seen.isdisjoint(keys):
            return DropReason.KEY_NOT_DISTINCT
        if (reason := self._check_identity(client_id, message)) is not None:
            return reason
        self._seen.update(keys)
        self._keys[client_id] = message
        return None

    def _check_identity(self, client_id: ClientId, message: AdvertiseKeys) -> DropReason | None:
        """Check signed keys: one client with bad keys must not make all others refuse the list."""
        if not self._setup.params.is_signed:
            return DropReason.WRONG_SIZE if message.identity_key or message.signature else None
        statement = statements.advertised_keys(
            self._setup.session_id, client_id, message.channel_public_key, message.mask_public_key
        )
        if not signing.verify(message.identity_key, message.signature, statement):
            return DropReason.INVALID_SIGNATURE
        if message.identity_key in self._identities:
            return DropReason.IDENTITY_NOT_DISTINCT
        directory = self._setup.directory
        if directory is not None and not directory.is_trusted(client_id, message.identity_key):
            return DropReason.IDENTITY_NOT_TRUSTED
        learn(directory, {client_id: message.identity_key})
        self._identities.add(message.identity_key)
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)
        self._keys.pop(client_id, None)

    def close(self) -> Closing:
        client_ids = tuple(sorted(self._keys))
        if not self.ready:
            return too_few(self, self._setup.params.quorum, set(client_ids))
        advertised = [self._keys[i] for i in client_ids]
        roster = Roster(
            client_ids=client_ids,
            channel_public_keys=_rows([keys.channel_public_key for keys in advertised]),
            mask_public_keys=_rows([keys.mask_public_key for keys in advertised]),
            identity_keys=_rows([keys.identity_key for keys in advertised]),
            signatures=_rows([keys.signature for keys in advertised]),
            graph=self._setup.build_graph(len(client_ids)),
            node_of={client_id: node for node, client_id in enumerate(client_ids)},
        )
        sends: list[ServerEvent] = []
        previous, message = None, None
        for node, client_id in enumerate(client_ids):
            neighborhood = roster.graph.neighborhood(node)
            # In the complete graph all neighbourhoods are the same array, and one message serves all.
            if message is None or neighborhood is not previous:
                previous = neighborhood
                message = PeerKeys(
                    self._setup.session_id,
                    client_ids=roster.ids(neighborhood),
                    channel_public_keys=roster.channel_public_keys[neighborhood].tobytes(),
                    mask_public_keys=roster.mask_public_keys[neighborhood].tobytes(),
                    identity_keys=roster.identity_keys[neighborhood].tobytes(),
                    signatures=roster.signatures[neighborhood].tobytes(),
                )
            sends.append(Send(client_id, message))
        return ShareKeysRound(self._setup, roster), tuple(sends)


def _rows(items: list[bytes]) -> npt.NDArray[np.uint8]:
    """Stack items of one size as rows."""
    return np.frombuffer(b"".join(items), dtype=np.uint8).reshape(len(items), -1)
