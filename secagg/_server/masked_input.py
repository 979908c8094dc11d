"""The server's round MaskedInputCollection (paper, figure 4, round 2): add up the masked inputs as they arrive."""

from collections.abc import Collection

import numpy as np

from secagg._server.consistency import ConsistencyRound
from secagg._server.stage import (
    Closing,
    RecoverableStage,
    Roster,
    ServerSetup,
    Shared,
    answering,
    drop_lonely,
    owners_of_masks,
)
from secagg._server.unmasking import Unmasking, UnmaskingRound
from secagg.algebra import ring
from secagg.algebra.ring import RingVector
from secagg.errors import LocalProtocolError
from secagg.events import DropReason, Round, Send
from secagg.graph import NodeFlags
from secagg.messages import ClientMessage, MaskedInput, SurvivorList
from secagg.params import ClientId


class MaskedInputRound(RecoverableStage):
    round = Round.MASKED_INPUT_COLLECTION

    def __init__(self, setup: ServerSetup, roster: Roster, shared: Shared) -> None:
        super().__init__(shared.flags, setup.params, roster)
        self._setup = setup
        self._shared = shared
        self._survives = np.zeros_like(shared.flags)
        # Inputs are added as they arrive: one vector in memory for any number of clients.
        self._sum = ring.zeros(setup.params.vector_length, setup.params.ring_bits)

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, MaskedInput):
            return DropReason.UNEXPECTED_MESSAGE
        vector, params = message.masked_input, self._params
        if not ring.is_vector(vector, params.vector_length, params.ring_bits):
            return DropReason.WRONG_SIZE
        self._add((client_id,), vector)
        return None

    def accept_partial(self, client_ids: Collection[ClientId], vector: RingVector) -> None:
        """Take the sum of the masked inputs of several awaited clients, which none of them has sent yet.

        Raises:
            LocalProtocolError: the vector has a wrong length or dtype.
        """
        params = self._params
        if not ring.is_vector(vector, params.vector_length, params.ring_bits):
            raise LocalProtocolError(
                f"a partial sum is an array of shape ({params.vector_length},) and dtype "
                f"{ring.word_dtype(params.ring_bits)}"
            )
        self._add(client_ids, vector)

    def _add(self, client_ids: Collection[ClientId], vector: RingVector) -> None:
        np.add(self._sum, vector, out=self._sum)
        self._survives[[self._roster.node_of[client_id] for client_id in client_ids]] = True

    def _present(self) -> NodeFlags:
        # A survivor that is dropped after its input stays in the sum and answers nothing further.
        return self._roster.flags(self.received & self.awaited)

    def _able(self) -> NodeFlags:
        return answering(self._params, self._roster, self._present(), self._survives)

    def _owners(self) -> NodeFlags:
        return owners_of_masks(self._roster, self._shared.flags, self._survives)

    def close(self) -> Closing:
        roster, able = self._roster, self._able_or_end()
        if isinstance(able, tuple):
            return able
        events = drop_lonely(self.round, roster, self._present() & ~able)
        previous, message = None, None
        for node in np.flatnonzero(able).tolist():
            neighborhood = roster.graph.neighborhood(node)
            if message is None or neighborhood is not previous:
                previous = neighborhood
                survivors = tuple(self._survives[neighborhood].tolist())
                message = SurvivorList(self._setup.session_id, survivors)
            events.append(Send(roster.client_ids[node], message))
        unmasking = Unmasking(self._setup, roster, self._shared, self._survives, self._sum)
        following = ConsistencyRound(unmasking, able) if self._params.is_signed else UnmaskingRound(unmasking, able)
        return following, tuple(events)
