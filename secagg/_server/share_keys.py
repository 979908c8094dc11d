"""The server's round ShareKeys (paper, figure 4, round 1): hand each client the shares that its peers encrypted."""

import numpy as np

from secagg._server.masked_input import MaskedInputRound
from secagg._server.stage import Closing, Roster, ServerSetup, Shared, Stage, answering, drop_lonely, too_few
from secagg.events import DropReason, Round, Send
from secagg.graph import NodeFlags
from secagg.messages import ClientMessage, PeerShares, ShareKeys
from secagg.params import ClientId
from secagg.primitives.digest import DIGEST_BYTES
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS, InvalidSharesError, shares_from_bytes


class ShareKeysRound(Stage):
    round = Round.SHARE_KEYS

    def __init__(self, setup: ServerSetup, roster: Roster) -> None:
        super().__init__(roster.client_ids)
        self._setup = setup
        self._roster = roster
        self._shared = np.zeros(len(roster.client_ids), dtype=bool)
        # [sender, place of the receiver in the sender's neighbourhood]
        self._encrypted_shares = np.zeros(
            (len(roster.client_ids), roster.graph.neighborhood_size, ENCRYPTED_SHARES_BYTES),
            dtype=np.uint8,
        )
        nodes, components = len(roster.client_ids), setup.params.noise_components
        self._seed_commitments = np.zeros((nodes, DIGEST_BYTES), dtype=np.uint8)
        self._noise_commitments = np.zeros((nodes, components, DIGEST_BYTES), dtype=np.uint8)
        corrected = roster.graph.neighborhood_size - setup.params.threshold + 1 if components else 0
        self._noise_corrections = np.zeros((nodes, corrected, components, LIMBS), dtype=np.uint16)

    @property
    def ready(self) -> bool:
        return bool(self._connected().any())

    def _connected(self) -> NodeFlags:
        """Flag the clients with enough neighbours that shared keys; the masks of others could not be recovered."""
        connected = self._shared
        while True:
            left = answering(self._setup.params, self._roster, connected, connected)
            if np.array_equal(left, connected):
                return connected.copy()
            connected = left

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, ShareKeys):
            return DropReason.UNEXPECTED_MESSAGE
        node = self._roster.node_of[client_id]
        receivers = np.flatnonzero(self._roster.graph.neighborhood(node) != node)
        if (
            len(message.encrypted_shares) != len(receivers) * ENCRYPTED_SHARES_BYTES
            or len(message.seed_commitment) != DIGEST_BYTES
            or len(message.noise_commitments) != self._noise_commitments[node].nbytes
            or len(message.noise_corrections) != self._noise_corrections[node].nbytes
        ):
            return DropReason.WRONG_SIZE
        try:
            corrections = shares_from_bytes(message.noise_corrections)
        except InvalidSharesError:
            return DropReason.WRONG_SIZE
        self._noise_corrections[node] = corrections.reshape(self._noise_corrections[node].shape)
        commitments = np.frombuffer(message.noise_commitments, dtype=np.uint8)
        self._noise_commitments[node] = commitments.reshape(self._noise_commitments[node].shape)
        items = np.frombuffer(message.encrypted_shares, dtype=np.uint8).reshape(-1, ENCRYPTED_SHARES_BYTES)
        self._encrypted_shares[node, receivers] = items
        self._seed_commitments[node] = np.frombuffer(message.seed_commitment, dtype=np.uint8)
        self._shared[node] = True
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)
        self._shared[self._roster.node_of[client_id]] = False

    def close(self) -> Closing:
        roster = self._roster
        connected = self._connected()
        if not connected.any():
            left = set(roster.ids_of(self._shared))
            return too_few(self, self._setup.params.quorum, left)
        events = drop_lonely(self.round, roster, self._shared & ~connected)
        previous, flags = None, ()
        for node in np.flatnonzero(connected).tolist():
            neighborhood = roster.graph.neighborhood(node)
            if neighborhood is not previous:
                previous, flags = neighborhood, tuple(connected[neighborhood].tolist())
            senders = connected[neighborhood] & (neighborhood != node)
            items = self._encrypted_shares[neighborhood[senders], roster.graph.places_of(node)[senders]]
            message = PeerShares(self._setup.session_id, flags, items.tobytes())
            events.append(Send(roster.client_ids[node], message))
        shared = Shared(connected, self._seed_commitments, self._noise_commitments, self._noise_corrections)
        return MaskedInputRound(self._setup, roster, shared), tuple(events)
