"""What the server's rounds have in common: the session, the directory of its clients, and the stage.

A stage knows who is awaited and who has answered; it returns why a client is to be dropped instead of raising, since
one client's bad message must not end the others' session.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.errors import LocalProtocolError
from secagg.events import DropReason, Round, ServerEvent
from secagg.graph import Graph, NodeFlags
from secagg.messages import ClientMessage
from secagg.params import ClientId, Parameters

GraphBuilder: TypeAlias = Callable[[int], Graph]
"""Makes the neighbour graph for so many advertised clients."""


@dataclass(frozen=True, slots=True)
class Session:
    """What does not change during a session."""

    params: Parameters
    session_id: bytes
    build_graph: GraphBuilder


@dataclass(frozen=True, slots=True)
class Directory:
    """The clients that advertised keys (U1), ascending, and who is whose neighbour; nodes are places in it."""

    client_ids: tuple[ClientId, ...]
    channel_public_keys: npt.NDArray[np.uint8]
    mask_public_keys: npt.NDArray[np.uint8]
    graph: Graph
    node_of: dict[ClientId, int]

    def ids(self, nodes: npt.NDArray[np.integer]) -> tuple[ClientId, ...]:
        return tuple(self.client_ids[node] for node in nodes.tolist())


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


def owners_of_masks(directory: Directory, shared: NodeFlags, survives: NodeFlags) -> NodeFlags:
    """Whose masks are in the sum: the survivors, and those that vanished and have a survivor for a neighbour."""
    return shared & (survives | (directory.graph.count(survives) > 0))
