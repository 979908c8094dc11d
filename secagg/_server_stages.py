"""What the server's rounds have in common: the session, the directory of its clients, and the stage.

A stage knows who is awaited and who has answered; it returns why a client is to be dropped instead of raising, since
one client's bad message must not end the others' session.
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

GraphBuilder: TypeAlias = Callable[[int], Graph]
"""Makes the neighbour graph for so many advertised clients."""


@dataclass(frozen=True, slots=True)
class Session:
    """What does not change during a session."""

    params: Parameters
    session_id: bytes
    build_graph: GraphBuilder
    entropy: EntropySource
    directory: KeyDirectory | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """The clients that advertised keys (U1), ascending, and who is whose neighbour; nodes are places in it.

    ``identity_keys`` and ``signatures`` have no columns where nothing is signed.
    """

    client_ids: tuple[ClientId, ...]
    channel_public_keys: npt.NDArray[np.uint8]
    mask_public_keys: npt.NDArray[np.uint8]
    identity_keys: npt.NDArray[np.uint8]
    signatures: npt.NDArray[np.uint8]
    graph: Graph
    node_of: dict[ClientId, int]

    def ids(self, nodes: npt.NDArray[np.integer]) -> tuple[ClientId, ...]:
        return tuple(self.client_ids[node] for node in nodes.tolist())

    def flags(self, client_ids: Collection[ClientId]) -> NodeFlags:
        """These clients as flags of nodes."""
        flags = np.zeros(len(self.client_ids), dtype=bool)
        flags[[self.node_of[client_id] for client_id in client_ids]] = True
        return flags


class Stage:
    """A stage of the session. The base refuses everything: a stage in which no message is awaited."""

    round: Round

    def __init__(self, invited: frozenset[ClientId]) -> None:
        self.invited = invited
        self.awaited = set(invited)
        self.received: set[ClientId] = set()
        self.pending = set(invited)

    @property
    def ready(self) -> bool:
        """Whether closing now would not abort."""
        return False

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        """Take an awaited client's message, or say why that client is to be dropped."""
        return DropReason.UNEXPECTED_MESSAGE

    def drop(self, client_id: ClientId) -> None:
        """Forget a client that vanished; what a stage already used of it stays used."""
        self.awaited.discard(client_id)
        self.pending.discard(client_id)

    def close(self) -> "Closing":
        raise LocalProtocolError("there is no round to close now")


Closing: TypeAlias = tuple[Stage, tuple[ServerEvent, ...]]


class Ended(Stage):
    """The session is over."""

    def __init__(self, round_: Round) -> None:
        super().__init__(frozenset())
        self.round = round_


@dataclass(frozen=True, slots=True)
class Shared:
    """Round ShareKeys as it ended: who shared keys (U2), and each client's commitment to its self-mask seed."""

    flags: NodeFlags
    seed_commitments: npt.NDArray[np.uint8]


def answering(params: Parameters, directory: Directory, candidates: NodeFlags, present: NodeFlags) -> NodeFlags:
    """Of the candidates, those with a quorum of those present in their neighbourhood: the others would refuse."""
    return candidates & (directory.graph.count(present) >= params.quorum)


def fewest_holders(params: Parameters, directory: Directory, owners: NodeFlags, answering: NodeFlags) -> int:
    """Of all secrets that have to be recovered, the fewest shares that can still come in."""
    holders = directory.graph.count(answering)
    if not params.is_complete:
        # In the sparse graph only the neighbours hold shares.
        holders = holders - answering
    return int(holders[owners].min(initial=len(holders)))


def drop_lonely(round_: Round, directory: Directory, lonely: NodeFlags) -> list[ServerEvent]:
    """Go on without clients that have too few neighbours left."""
    return [
        ClientDropped(client_id, DropReason.TOO_FEW_NEIGHBORS, round_)
        for client_id in directory.ids(np.flatnonzero(lonely))
    ]


def too_few(stage: Stage, needed: int, left: set[ClientId]) -> Closing:
    """The end, for want of clients."""
    missing = tuple(sorted(stage.invited - left))
    # On a sparse graph there may be enough of them, but no neighbourhood in which there are.
    had = len(left) if len(left) < needed else 0
    return Ended(stage.round), (Aborted(AbortReason.TOO_FEW_CLIENTS, stage.round, needed, had, missing),)


def owners_of_masks(directory: Directory, shared: NodeFlags, survives: NodeFlags) -> NodeFlags:
    """Whose masks are in the sum: the survivors, and those that vanished and have a survivor for a neighbour."""
    return shared & (survives | (directory.graph.count(survives) > 0))
