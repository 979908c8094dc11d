"""Common parts of the server's rounds: the constants of the session, the roster of clients, and the base class `Stage`.

A stage knows which clients are awaited and which have answered.  It returns the reason to drop a client and does not
raise: a bad message of one client must not end the session of the others.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import LocalProtocolError
from secagg.events import Aborted, AbortReason, ClientDropped, DropReason, Round, ServerEvent
from secagg.graph import Graph, NodeFlags
from secagg.identity import KeyDirectory
from secagg.messages import ClientMessage
from secagg.params import ClientId, Parameters
from secagg.primitives.entropy import EntropySource
from secagg.sharing import ShareArray

GraphBuilder: TypeAlias = Callable[[int], Graph]
"""A function that builds the neighbour graph of the given number of advertised clients."""


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """The constants of a session."""

    params: Parameters
    session_id: bytes
    build_graph: GraphBuilder
    entropy: EntropySource
    directory: KeyDirectory | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """The clients that advertised keys (U1), ascending, with their keys and the graph; a node is a place in it.

    ``identity_keys`` and ``signatures`` have no columns if the mode is not signed.
    """

    client_ids: tuple[ClientId, ...]
    channel_public_keys: npt.NDArray[np.uint8]
    mask_public_keys: npt.NDArray[np.uint8]
    identity_keys: npt.NDArray[np.uint8]
    signatures: npt.NDArray[np.uint8]
    graph: Graph
    node_of: dict[ClientId, int]

    def ids(self, nodes: npt.NDArray[np.integer]) -> tuple[ClientId, ...]:
        """Return the ids of these nodes."""
        return tuple(self.client_ids[node] for node in nodes.tolist())

    def ids_of(self, flags: NodeFlags) -> tuple[ClientId, ...]:
        """Return the ids of the nodes that are flagged."""
        return self.ids(np.flatnonzero(flags))

    def flags(self, client_ids: Collection[ClientId]) -> NodeFlags:
        """Flag the nodes of these clients."""
        flags = np.zeros(len(self.client_ids), dtype=bool)
        flags[[self.node_of[client_id] for client_id in client_ids]] = True
        return flags


class Stage:
    """Base class of the stages of a session. It awaits no message and refuses all.

    Attributes:
        invited: clients that were asked.
        awaited: clients that may answer or have answered; dropped clients are removed.
        received: clients that have answered.
        pending: clients that may still answer.
    """

    round: Round

    def __init__(self, invited: Collection[ClientId]) -> None:
        self.invited = frozenset(invited)
        self.awaited = set(invited)
        self.received: set[ClientId] = set()
        self.pending = set(invited)

    @property
    def ready(self) -> bool:
        """Return whether the session would continue if the round were closed now."""
        return False

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        """Take an awaited client's message, or return the reason to drop that client."""
        return DropReason.UNEXPECTED_MESSAGE

    def drop(self, client_id: ClientId) -> None:
        """Forget a dropped client; data of it that was used already stays in use."""
        self.awaited.discard(client_id)
        self.pending.discard(client_id)

    def close(self) -> "Closing":
        """Return the next stage, and the events that open it."""
        raise LocalProtocolError("no round is open")


Closing: TypeAlias = tuple[Stage, tuple[ServerEvent, ...]]


class Ended(Stage):
    """The stage after the session has ended."""

    def __init__(self, round_: Round) -> None:
        super().__init__(())
        self.round = round_


@dataclass(frozen=True, slots=True)
class Shared:
    """The result of ShareKeys: the clients that shared keys (U2), and their commitments to their self-mask seeds.

    Of noise components: the commitments to their seeds, shape (nodes, components, DIGEST_BYTES), and the corrections of
    the holders from place t - 1 on, shape (nodes, holders - t + 1, components, LIMBS).
    """

    flags: NodeFlags
    seed_commitments: npt.NDArray[np.uint8]
    noise_commitments: npt.NDArray[np.uint8]
    noise_corrections: ShareArray


class RecoverableStage(Stage):
    """A round after which the shares of the remaining clients must still recover all masks in the sum."""

    def __init__(self, invited: NodeFlags, params: Parameters, roster: Roster) -> None:
        super().__init__(roster.ids_of(invited))
        self._params = params
        self._roster = roster

    @property
    def ready(self) -> bool:
        able = self._able()
        return bool(able.any()) and self._fewest_shares(able) >= self._params.threshold

    def _present(self) -> NodeFlags:
        """Flag the clients that answered and may continue."""
        raise NotImplementedError

    def _able(self) -> NodeFlags:
        """Flag those of them that have a quorum in their neighbourhood; the others would refuse the next message."""
        raise NotImplementedError

    def _owners(self) -> NodeFlags:
        """Flag the clients whose secret has to be recovered."""
        raise NotImplementedError

    def _fewest_shares(self, able: NodeFlags) -> int:
        """Return the fewest shares that can still arrive of any secret that has to be recovered."""
        shares = self._roster.graph.count(able)
        if not self._params.is_complete:
            # In the sparse graph only neighbours hold shares.
            shares = shares - able
        return int(shares[self._owners()].min(initial=len(shares)))

    def _able_or_end(self) -> NodeFlags | Closing:
        """Return the clients that continue, or the end of the session if too few are left."""
        able = self._able()
        if not able.any():
            return too_few(self, self._params.quorum, set(self._roster.ids_of(self._present())))
        if (had := self._fewest_shares(able)) < self._params.threshold:
            missing = tuple(sorted(self.invited.difference(self._roster.ids_of(able))))
            aborted = Aborted(AbortReason.TOO_FEW_CLIENTS, self.round, self._params.threshold, had, missing)
            return Ended(self.round), (aborted,)
        return able


def answering(params: Parameters, roster: Roster, candidates: NodeFlags, present: NodeFlags) -> NodeFlags:
    """Flag the candidates with a quorum of present clients in their neighbourhood; the others would refuse."""
    return candidates & (roster.graph.count(present) >= params.quorum)


def drop_lonely(round_: Round, roster: Roster, lonely: NodeFlags) -> list[ServerEvent]:
    """Drop clients that have too few neighbours left."""
    return [ClientDropped(client_id, DropReason.TOO_FEW_NEIGHBORS, round_) for client_id in roster.ids_of(lonely)]


def too_few(stage: Stage, needed: int, left: set[ClientId]) -> Closing:
    """Abort: too few clients are left."""
    missing = tuple(sorted(stage.invited - left))
    # On a sparse graph enough clients may remain although no neighbourhood has enough of them.
    had = len(left) if len(left) < needed else 0
    return Ended(stage.round), (Aborted(AbortReason.TOO_FEW_CLIENTS, stage.round, needed, had, missing),)


def owners_of_masks(roster: Roster, shared: NodeFlags, survives: NodeFlags) -> NodeFlags:
    """Flag the clients whose masks are in the sum: survivors, and vanished clients with a surviving neighbour."""
    return shared & (survives | (roster.graph.count(survives) > 0))
