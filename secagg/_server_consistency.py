"""The server's round ConsistencyCheck (paper, figure 4, round 3): the survivors sign what they were told."""

import numpy as np
import numpy.typing as npt

from secagg import statements
from secagg._server_stages import Closing, Ended, Stage, answering, drop_lonely, fewest_holders, too_few
from secagg._server_unmasking import Unmasking, UnmaskingRound
from secagg.events import Aborted, AbortReason, DropReason, Round, Send, ServerEvent
from secagg.graph import NodeFlags, Places
from secagg.messages import ClientMessage, ConsistencyCheck, ConsistencyProof
from secagg.params import ClientId
from secagg.primitives import signing
from secagg.primitives.digest import DIGEST_BYTES
from secagg.primitives.signing import SIGNATURE_BYTES


class ConsistencyRound(Stage):
    round = Round.CONSISTENCY_CHECK

    def __init__(self, unmasking: Unmasking, invited: NodeFlags) -> None:
        super().__init__(frozenset(unmasking.directory.ids(np.flatnonzero(invited))))
        self._unmasking = unmasking
        self._signatures = np.zeros((len(invited), SIGNATURE_BYTES), dtype=np.uint8)
        self._members = self._member_digests()
        # In the complete graph everyone has the same view.
        self._last_view: tuple[Places, bytes] | None = None

    def _member_digests(self) -> npt.NDArray[np.uint8]:
        """`statements.member` of every node, shape (nodes, DIGEST_BYTES)."""
        directory, session_id = self._unmasking.directory, self._unmasking.session.session_id
        shared, survives = self._unmasking.shared.flags, self._unmasking.survives
        digests = [
            statements.member(
                statements.member_keys(
                    session_id,
                    client_id,
                    directory.identity_keys[node].tobytes(),
                    directory.channel_public_keys[node].tobytes(),
                    directory.mask_public_keys[node].tobytes(),
                ),
                statements.standing(bool(shared[node]), bool(survives[node])),
            )
            for node, client_id in enumerate(directory.client_ids)
        ]
        return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)

    @property
    def ready(self) -> bool:
        able = self._able()
        return bool(able.any()) and self._fewest_holders(able) >= self._unmasking.session.params.threshold

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, ConsistencyCheck):
            return DropReason.UNEXPECTED_MESSAGE
        directory = self._unmasking.directory
        node = directory.node_of[client_id]
        statement = statements.view(self._unmasking.session.session_id, client_id, self._view(node))
        if not signing.verify(directory.identity_keys[node].tobytes(), message.signature, statement):
            return DropReason.INVALID_SIGNATURE
        self._signatures[node] = np.frombuffer(message.signature, dtype=np.uint8)
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)

    def _view(self, node: int) -> bytes:
        """The digest of a node's view."""
        neighborhood = self._unmasking.directory.graph.neighborhood(node)
        if self._last_view is None or self._last_view[0] is not neighborhood:
            data = self._members[neighborhood].tobytes()
            members = [data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)]
            self._last_view = neighborhood, statements.view_digest(self._unmasking.session.session_id, members)
        return self._last_view[1]

    def _able(self) -> NodeFlags:
        """Those who signed, and have enough neighbours who did: the others would refuse the proof."""
        signed = self._unmasking.directory.flags(self.received)
        return answering(self._unmasking.session.params, self._unmasking.directory, signed, signed)

    def _fewest_holders(self, able: NodeFlags) -> int:
        unmasking = self._unmasking
        return fewest_holders(unmasking.session.params, unmasking.directory, unmasking.owners, able)

    def close(self) -> Closing:
        params, directory = self._unmasking.session.params, self._unmasking.directory
        signed, able = directory.flags(self.received), self._able()
        if not able.any():
            return too_few(self, params.quorum, set(self.received))
        if (had := self._fewest_holders(able)) < params.threshold:
            missing = tuple(sorted(self.invited - set(directory.ids(np.flatnonzero(able)))))
            aborted = Aborted(AbortReason.TOO_FEW_CLIENTS, self.round, params.threshold, had, missing)
            return Ended(self.round), (aborted,)
        events: list[ServerEvent] = drop_lonely(self.round, directory, signed & ~able)
        events += [
            Send(directory.client_ids[node], self._proof(node, signed)) for node in np.flatnonzero(able).tolist()
        ]
        return UnmaskingRound(self._unmasking, able), tuple(events)

    def _proof(self, node: int, signed: NodeFlags) -> ConsistencyProof:
        graph, session = self._unmasking.directory.graph, self._unmasking.session
        neighborhood = graph.neighborhood(node)
        consistent = signed[neighborhood]
        peers = neighborhood[consistent & (neighborhood != node)]
        common, others = b"", b""
        if not session.params.is_complete:
            views = np.stack([graph.neighborhood(peer) for peer in peers.tolist()])
            common = np.packbits(_contains(views, neighborhood), axis=1, bitorder="little").tobytes()
            others = self._members[views[~np.isin(views, neighborhood)]].tobytes()
        return ConsistencyProof(
            session.session_id, tuple(consistent.tolist()), self._signatures[peers].tobytes(), common, others
        )


def _contains(views: Places, neighborhood: Places) -> npt.NDArray[np.bool_]:
    """Which members of the neighbourhood are in each of the views, shape (views, neighbourhood)."""
    found = np.zeros((len(views), len(neighborhood)), dtype=bool)
    row, column = np.nonzero(np.isin(views, neighborhood))
    found[row, np.searchsorted(neighborhood, views[row, column])] = True
    return found
