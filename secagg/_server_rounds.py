"""The server's rounds up to the sum of the masked inputs: one collector each, which when closed opens the next."""

import numpy as np
import numpy.typing as npt

from secagg import statements
from secagg._server_consistency import ConsistencyRound
from secagg._server_stages import (
    Closing,
    Directory,
    Ended,
    Session,
    Shared,
    Stage,
    answering,
    drop_lonely,
    fewest_holders,
    owners_of_masks,
    too_few,
)
from secagg._server_unmasking import Unmasking, UnmaskingRound
from secagg.algebra import ring
from secagg.events import Aborted, AbortReason, DropReason, Round, Send, ServerEvent
from secagg.graph import NodeFlags
from secagg.identity import learn
from secagg.messages import (
    AdvertiseKeys,
    ClientMessage,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
)
from secagg.params import ClientId
from secagg.primitives import signing
from secagg.primitives.agreement import is_valid_public_key
from secagg.primitives.digest import DIGEST_BYTES
from secagg.sharing import ENCRYPTED_SHARES_BYTES


class AdvertiseKeysRound(Stage):
    round = Round.ADVERTISE_KEYS

    def __init__(self, session: Session, client_ids: frozenset[ClientId]) -> None:
        super().__init__(client_ids)
        self._session = session
        self._keys: dict[ClientId, AdvertiseKeys] = {}
        self._seen: set[bytes] = set()
        self._identities: set[bytes] = set()

    @property
    def ready(self) -> bool:
        return len(self._keys) >= self._session.params.quorum

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, AdvertiseKeys):
            return DropReason.UNEXPECTED_MESSAGE
        keys = (message.channel_public_key, message.mask_public_key)
        if not all(map(is_valid_public_key, keys)):
            return DropReason.INVALID_PUBLIC_KEY
        # Keys of a client that was dropped stay taken: whoever repeats them has copied them.
        if keys[0] == keys[1] or not self._seen.isdisjoint(keys):
            return DropReason.KEY_NOT_DISTINCT
        if (reason := self._check_identity(client_id, message)) is not None:
            return reason
        self._seen.update(keys)
        self._keys[client_id] = message
        return None

    def _check_identity(self, client_id: ClientId, message: AdvertiseKeys) -> DropReason | None:
        """Where keys are signed: one client with bad keys must not make all others refuse the list."""
        if not self._session.params.is_signed:
            return DropReason.WRONG_SIZE if message.identity_key or message.signature else None
        statement = statements.advertised_keys(
            self._session.session_id, client_id, message.channel_public_key, message.mask_public_key
        )
        if not signing.verify(message.identity_key, message.signature, statement):
            return DropReason.INVALID_SIGNATURE
        if message.identity_key in self._identities:
            return DropReason.IDENTITY_NOT_DISTINCT
        directory = self._session.directory
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
            return too_few(self, self._session.params.quorum, set(client_ids))
        advertised = [self._keys[i] for i in client_ids]
        directory = Directory(
            client_ids=client_ids,
            channel_public_keys=_rows([keys.channel_public_key for keys in advertised]),
            mask_public_keys=_rows([keys.mask_public_key for keys in advertised]),
            identity_keys=_rows([keys.identity_key for keys in advertised]),
            signatures=_rows([keys.signature for keys in advertised]),
            graph=self._session.build_graph(len(client_ids)),
            node_of={client_id: node for node, client_id in enumerate(client_ids)},
        )
        sends: list[ServerEvent] = []
        previous, message = None, None
        for node, client_id in enumerate(client_ids):
            neighborhood = directory.graph.neighborhood(node)
            # In the complete graph everyone's neighbourhood is the same array: one message object serves all.
            if message is None or neighborhood is not previous:
                previous = neighborhood
                message = PeerKeys(
                    self._session.session_id,
                    client_ids=directory.ids(neighborhood),
                    channel_public_keys=directory.channel_public_keys[neighborhood].tobytes(),
                    mask_public_keys=directory.mask_public_keys[neighborhood].tobytes(),
                    identity_keys=directory.identity_keys[neighborhood].tobytes(),
                    signatures=directory.signatures[neighborhood].tobytes(),
                )
            sends.append(Send(client_id, message))
        return ShareKeysRound(self._session, directory), tuple(sends)


class ShareKeysRound(Stage):
    round = Round.SHARE_KEYS

    def __init__(self, session: Session, directory: Directory) -> None:
        super().__init__(frozenset(directory.client_ids))
        self._session = session
        self._directory = directory
        self._shared = np.zeros(len(directory.client_ids), dtype=bool)
        # [sender, place of the receiver in the sender's neighbourhood]
        self._encrypted_shares = np.zeros(
            (len(directory.client_ids), directory.graph.neighborhood_size, ENCRYPTED_SHARES_BYTES),
            dtype=np.uint8,
        )
        self._seed_commitments = np.zeros((len(directory.client_ids), DIGEST_BYTES), dtype=np.uint8)

    @property
    def ready(self) -> bool:
        return bool(self._connected().any())

    def _connected(self) -> NodeFlags:
        """Those that shared keys with enough others that did: the rest could not be unmasked should they vanish."""
        connected = self._shared
        while True:
            left = answering(self._session.params, self._directory, connected, connected)
            if np.array_equal(left, connected):
                return connected.copy()
            connected = left

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, ShareKeys):
            return DropReason.UNEXPECTED_MESSAGE
        node = self._directory.node_of[client_id]
        receivers = np.flatnonzero(self._directory.graph.neighborhood(node) != node)
        if (
            len(message.encrypted_shares) != len(receivers) * ENCRYPTED_SHARES_BYTES
            or len(message.seed_commitment) != DIGEST_BYTES
        ):
            return DropReason.WRONG_SIZE
        items = np.frombuffer(message.encrypted_shares, dtype=np.uint8).reshape(-1, ENCRYPTED_SHARES_BYTES)
        self._encrypted_shares[node, receivers] = items
        self._seed_commitments[node] = np.frombuffer(message.seed_commitment, dtype=np.uint8)
        self._shared[node] = True
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)
        self._shared[self._directory.node_of[client_id]] = False

    def close(self) -> Closing:
        directory = self._directory
        connected = self._connected()
        if not connected.any():
            left = set(directory.ids(np.flatnonzero(self._shared)))
            return too_few(self, self._session.params.quorum, left)
        events = drop_lonely(self.round, directory, self._shared & ~connected)
        previous, flags = None, ()
        for node in np.flatnonzero(connected).tolist():
            neighborhood = directory.graph.neighborhood(node)
            if neighborhood is not previous:
                previous, flags = neighborhood, tuple(connected[neighborhood].tolist())
            senders = connected[neighborhood] & (neighborhood != node)
            items = self._encrypted_shares[neighborhood[senders], directory.graph.places_of(node)[senders]]
            message = PeerShares(self._session.session_id, flags, items.tobytes())
            events.append(Send(directory.client_ids[node], message))
        shared = Shared(connected, self._seed_commitments)
        return MaskedInputRound(self._session, directory, shared), tuple(events)


class MaskedInputRound(Stage):
    round = Round.MASKED_INPUT_COLLECTION

    def __init__(self, session: Session, directory: Directory, shared: Shared) -> None:
        super().__init__(frozenset(directory.ids(np.flatnonzero(shared.flags))))
        self._session = session
        self._directory = directory
        self._shared = shared
        self._survives = np.zeros_like(shared.flags)
        # Inputs are added as they arrive: one vector of memory, however many clients.
        self._sum = ring.zeros(session.params.vector_length, session.params.ring_bits)

    @property
    def ready(self) -> bool:
        able = self._able()
        return bool(able.any()) and self._fewest_holders(able) >= self._session.params.threshold

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, MaskedInput):
            return DropReason.UNEXPECTED_MESSAGE
        vector, params = message.masked_input, self._session.params
        if not ring.is_vector(vector, params.vector_length, params.ring_bits):
            return DropReason.WRONG_SIZE
        np.add(self._sum, vector, out=self._sum)
        self._survives[self._directory.node_of[client_id]] = True
        return None

    def _alive(self) -> NodeFlags:
        """Survivors that are still there to answer: one that vanishes after its input stays in the sum."""
        return self._directory.flags(self.received & self.awaited)

    def _able(self) -> NodeFlags:
        """Those of them that will answer: with fewer survivors around it, a client refuses."""
        return answering(self._session.params, self._directory, self._alive(), self._survives)

    def _fewest_holders(self, able: NodeFlags) -> int:
        owners = owners_of_masks(self._directory, self._shared.flags, self._survives)
        return fewest_holders(self._session.params, self._directory, owners, able)

    def close(self) -> Closing:
        params, directory = self._session.params, self._directory
        able = self._able()
        if not able.any():
            return too_few(self, params.quorum, set(directory.ids(np.flatnonzero(self._alive()))))
        if (had := self._fewest_holders(able)) < params.threshold:
            missing = tuple(sorted(self.invited - set(directory.ids(np.flatnonzero(able)))))
            aborted = Aborted(AbortReason.TOO_FEW_CLIENTS, self.round, params.threshold, had, missing)
            return Ended(self.round), (aborted,)
        events = drop_lonely(self.round, directory, self._alive() & ~able)
        previous, message = None, None
        for node in np.flatnonzero(able).tolist():
            neighborhood = directory.graph.neighborhood(node)
            if message is None or neighborhood is not previous:
                previous = neighborhood
                survivors = tuple(self._survives[neighborhood].tolist())
                message = SurvivorList(self._session.session_id, survivors)
            events.append(Send(directory.client_ids[node], message))
        unmasking = Unmasking(self._session, directory, self._shared, self._survives, self._sum)
        following = ConsistencyRound(unmasking, able) if params.is_signed else UnmaskingRound(unmasking, able)
        return following, tuple(events)


def _rows(items: list[bytes]) -> npt.NDArray[np.uint8]:
    """One item a row; all have one size."""
    return np.frombuffer(b"".join(items), dtype=np.uint8).reshape(len(items), -1)
