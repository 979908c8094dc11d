"""The server's round ConsistencyCheck (paper, figure 4, round 3): survivors sign their view."""

import numpy as np
import numpy.typing as npt

from secagg import statements
from secagg._server.stage import Closing, RecoverableStage, answering, drop_lonely
from secagg._server.unmasking import Unmasking, UnmaskingRound
from secagg.events import DropReason, Round, Send, ServerEvent
from secagg.graph import NodeFlags, Places
from secagg.messages import ClientMessage, ConsistencyCheck, ConsistencyProof
from secagg.params import ClientId
from secagg.primitives import signing
from secagg.primitives.digest import DIGEST_BYTES
from secagg.primitives.signing import SIGNATURE_BYTES


class ConsistencyRound(RecoverableStage):
    round = Round.CONSISTENCY_CHECK

    def __init__(self, unmasking: Unmasking, invited: NodeFlags) -> None:
        super().__init__(invited, unmasking.setup.params, unmasking.roster)
        self._unmasking = unmasking
        self._session_id = unmasking.setup.session_id
        self._signatures = np.zeros((len(invited), SIGNATURE_BYTES), dtype=np.uint8)
        self._members = self._member_digests()
        # In the complete graph all clients have the same view.
        self._last_view: tuple[Places, bytes] | None = None

    def _member_digests(self) -> npt.NDArray[np.uint8]:
        """Return `statements.member` of each node, shape (nodes, DIGEST_BYTES)."""
        roster, shared, survives = self._roster, self._unmasking.shared.flags, self._unmasking.survives
        digests = [
            statements.member(
                statements.keys_digest(
                    self._session_id,
                    client_id,
                    roster.identity_keys[node].tobytes(),
                    roster.channel_public_keys[node].tobytes(),
                    roster.mask_public_keys[node].tobytes(),
                ),
                statements.standing(bool(shared[node]), bool(survives[node])),
            )
            for node, client_id in enumerate(roster.client_ids)
        ]
        return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, ConsistencyCheck):
            return DropReason.UNEXPECTED_MESSAGE
        node = self._roster.node_of[client_id]
        statement = statements.view(self._session_id, client_id, self._view(node))
        if not signing.verify(self._roster.identity_keys[node].tobytes(), message.signature, statement):
            return DropReason.INVALID_SIGNATURE
        self._signatures[node] = np.frombuffer(message.signature, dtype=np.uint8)
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)

    def _view(self, node: int) -> bytes:
        """Return the digest of a node's view."""
        neighborhood = self._roster.graph.neighborhood(node)
        if self._last_view is None or self._last_view[0] is not neighborhood:
            data = self._members[neighborhood].tobytes()
            members = [data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)]
            self._last_view = neighborhood, statements.view_digest(self._session_id, members)
        return self._last_view[1]

    def _present(self) -> NodeFlags:
        return self._roster.flags(self.received)

    def _able(self) -> NodeFlags:
        signed = self._present()
        return answering(self._params, self._roster, signed, signed)

    def _owners(self) -> NodeFlags:
        return self._unmasking.owners

    def close(self) -> Closing:
        signed, able = self._present(), self._able_or_end()
        if isinstance(able, tuple):
            return able
        events: list[ServerEvent] = drop_lonely(self.round, self._roster, signed & ~able)
        for node in np.flatnonzero(able).tolist():
            events.append(Send(self._roster.client_ids[node], self._proof(node, signed)))
        return UnmaskingRound(self._unmasking, able), tuple(events)

    def _proof(self, node: int, signed: NodeFlags) -> ConsistencyProof:
        graph = self._roster.graph
        neighborhood = graph.neighborhood(node)
        consistent = signed[neighborhood]
        peers = neighborhood[consistent & (neighborhood != node)]
        common, others = b"", b""
        if not self._params.is_complete:
            views = np.stack([graph.neighborhood(peer) for peer in peers.tolist()])
            common = np.packbits(_contains(views, neighborhood), axis=1, bitorder="little").tobytes()
            others = self._members[views[~np.isin(views, neighborhood)]].tobytes()
        return ConsistencyProof(
            self._session_id, tuple(consistent.tolist()), self._signatures[peers].tobytes(), common, others
        )


def _contains(views: Places, neighborhood: Places) -> npt.NDArray[np.bool_]:
    """Flag the members of the neighbourhood that are in each of the views, shape (views, neighbourhood)."""
    found = np.zeros((len(views), len(neighborhood)), dtype=bool)
    row, column = np.nonzero(np.isin(views, neighborhood))
    found[row, np.searchsorted(neighborhood, views[row, column])] = True
    return found
