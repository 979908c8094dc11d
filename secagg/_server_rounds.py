"""The server's rounds up to the sum of the masked inputs: one collector each, which when closed opens the next."""

import numpy as np
import numpy.typing as npt

from secagg._server_stages import Closing, Directory, Ended, Session, Stage, owners_of_masks
from secagg._server_unmasking import UnmaskingRound
from secagg.algebra import ring
from secagg.events import Aborted, AbortReason, ClientDropped, DropReason, Round, Send, ServerEvent
from secagg.graph import NodeFlags
from secagg.messages import (
    AdvertiseKeys,
    ClientMessage,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
)
from secagg.params import ClientId, Parameters
from secagg.primitives.agreement import KEY_BYTES, is_valid_public_key
from secagg.sharing import ENCRYPTED_SHARES_BYTES


class AdvertiseKeysRound(Stage):
    round = Round.ADVERTISE_KEYS

    def __init__(self, session: Session, client_ids: frozenset[ClientId]) -> None:
        super().__init__(client_ids)
        self._session = session
        self._keys: dict[ClientId, AdvertiseKeys] = {}
        self._seen: set[bytes] = set()

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
        self._seen.update(keys)
        self._keys[client_id] = message
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)
        self._keys.pop(client_id, None)

    def close(self) -> Closing:
        client_ids = tuple(sorted(self._keys))
        if not self.ready:
            return _too_few(self, self._session.params, set(client_ids))
        directory = Directory(
            client_ids=client_ids,
            channel_public_keys=_key_array([self._keys[i].channel_public_key for i in client_ids]),
            mask_public_keys=_key_array([self._keys[i].mask_public_key for i in client_ids]),
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

    @property
    def ready(self) -> bool:
        return bool(self._connected().any())

    def _connected(self) -> NodeFlags:
        """Those that shared keys with enough others that did: the rest could not be unmasked should they vanish."""
        connected = self._shared.copy()
        while True:
            lonely = connected & (self._directory.graph.count(connected) < self._session.params.quorum)
            if not lonely.any():
                return connected
            connected &= ~lonely

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, ShareKeys):
            return DropReason.UNEXPECTED_MESSAGE
        node = self._directory.node_of[client_id]
        receivers = np.flatnonzero(self._directory.graph.neighborhood(node) != node)
        if len(message.encrypted_shares) != len(receivers) * ENCRYPTED_SHARES_BYTES:
            return DropReason.WRONG_SIZE
        items = np.frombuffer(message.encrypted_shares, dtype=np.uint8).reshape(-1, ENCRYPTED_SHARES_BYTES)
        self._encrypted_shares[node, receivers] = items
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
            return _too_few(self, self._session.params, set(directory.ids(np.flatnonzero(self._shared))))
        events = _drop_lonely(self.round, directory, self._shared & ~connected)
        previous, flags = None, ()
        for node in np.flatnonzero(connected).tolist():
            neighborhood = directory.graph.neighborhood(node)
            if neighborhood is not previous:
                previous, flags = neighborhood, tuple(connected[neighborhood].tolist())
            senders = connected[neighborhood] & (neighborhood != node)
            items = self._encrypted_shares[neighborhood[senders], directory.graph.places_of(node)[senders]]
            message = PeerShares(self._session.session_id, flags, items.tobytes())
            events.append(Send(directory.client_ids[node], message))
        return MaskedInputRound(self._session, directory, connected), tuple(events)


class MaskedInputRound(Stage):
    round = Round.MASKED_INPUT_COLLECTION

    def __init__(self, session: Session, directory: Directory, shared: NodeFlags) -> None:
        super().__init__(frozenset(directory.ids(np.flatnonzero(shared))))
        self._session = session
        self._directory = directory
        self._shared = shared
        self._survives = np.zeros_like(shared)
        # Inputs are added as they arrive: one vector of memory, however many clients.
        self._sum = ring.zeros(session.params.vector_length, session.params.ring_bits)

    @property
    def ready(self) -> bool:
        answering = self._answering()
        return bool(answering.any()) and self._fewest_holders(answering) >= self._session.params.threshold

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
        alive = np.zeros_like(self._survives)
        alive[[self._directory.node_of[client_id] for client_id in self.received & self.awaited]] = True
        return alive

    def _answering(self) -> NodeFlags:
        """Those of them that will answer: with fewer survivors around it, a client refuses."""
        return self._alive() & (self._directory.graph.count(self._survives) >= self._session.params.quorum)

    def _fewest_holders(self, answering: NodeFlags) -> int:
        """Of all secrets that have to be recovered, the fewest shares that can still come in."""
        holders = self._directory.graph.count(answering)
        if not self._session.params.is_complete:
            holders -= answering
        return int(holders[owners_of_masks(self._directory, self._shared, self._survives)].min(initial=len(holders)))

    def close(self) -> Closing:
        params, directory = self._session.params, self._directory
        answering = self._answering()
        if not answering.any():
            return _too_few(self, params, set(directory.ids(np.flatnonzero(self._alive()))))
        if (had := self._fewest_holders(answering)) < params.threshold:
            missing = tuple(sorted(self.invited - set(directory.ids(np.flatnonzero(answering)))))
            aborted = Aborted(AbortReason.TOO_FEW_CLIENTS, self.round, params.threshold, had, missing)
            return Ended(self.round), (aborted,)
        events = _drop_lonely(self.round, directory, self._alive() & ~answering)
        previous, message = None, None
        for node in np.flatnonzero(answering).tolist():
            neighborhood = directory.graph.neighborhood(node)
            if message is None or neighborhood is not previous:
                previous = neighborhood
                survivors = tuple(self._survives[neighborhood].tolist())
                message = SurvivorList(self._session.session_id, survivors)
            events.append(Send(directory.client_ids[node], message))
        unmasking = UnmaskingRound(self._session, directory, self._shared, self._survives, answering, self._sum)
        return unmasking, tuple(events)


def _key_array(keys: list[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)


def _drop_lonely(round_: Round, directory: Directory, lonely: NodeFlags) -> list[ServerEvent]:
    return [
        ClientDropped(client_id, DropReason.TOO_FEW_NEIGHBORS, round_)
        for client_id in directory.ids(np.flatnonzero(lonely))
    ]


def _too_few(stage: Stage, params: Parameters, left: set[ClientId]) -> Closing:
    missing = tuple(sorted(stage.invited - left))
    # On a sparse graph there may be enough of them, but no neighbourhood in which there are.
    had = len(left) if len(left) < params.quorum else 0
    return Ended(stage.round), (Aborted(AbortReason.TOO_FEW_CLIENTS, stage.round, params.quorum, had, missing),)
