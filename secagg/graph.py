"""Who is whose neighbour.

Nodes are the places 0..n-1 of the advertised clients, sorted by id.  A node's *neighbourhood* includes the node
itself, sorted; the place of a share's holder in the owner's neighbourhood is the share's evaluation point.
The complete graph of Bonawitz et al. (2017) is the graph in which every neighbourhood is everybody.
"""

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.params import Parameters
from secagg.primitives.entropy import EntropySource, draw

Places: TypeAlias = npt.NDArray[np.intp]
NodeFlags: TypeAlias = npt.NDArray[np.bool_]
"""One flag a node, shape (num_nodes,)."""


class Graph(Protocol):
    """A symmetric neighbour relation on the nodes 0..num_nodes-1."""

    @property
    def num_nodes(self) -> int: ...

    @property
    def neighborhood_size(self) -> int:
        """Nodes in each neighbourhood, the node itself included."""
        ...

    @property
    def members(self) -> Places:
        """Each node and its neighbours, ascending, shape (num_nodes, neighborhood_size). Not to be written to."""
        ...

    def neighborhood(self, node: int) -> Places:
        """The node and its neighbours, ascending."""
        ...

    def places_of(self, node: int) -> Places:
        """Where ``node`` stands in the neighbourhood of each member of its own, in the same order."""
        ...

    def count(self, flags: NodeFlags) -> Places:
        """How many flagged nodes each neighbourhood has, shape (num_nodes,)."""
        ...


class CompleteGraph:
    """Everyone is everyone's neighbour."""

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes
        self.neighborhood_size = num_nodes
        self._everyone = np.arange(num_nodes, dtype=np.intp)

    @property
    def members(self) -> Places:
        return np.broadcast_to(self._everyone, (self.num_nodes, self.num_nodes))

    def neighborhood(self, node: int) -> Places:
        return self._everyone

    def places_of(self, node: int) -> Places:
        return np.full(self.num_nodes, node, dtype=np.intp)

    def count(self, flags: NodeFlags) -> Places:
        return np.full(self.num_nodes, int(flags.sum()), dtype=np.intp)


class HararyGraph:
    """A randomly relabelled Harary graph (Bell et al. 2020, algorithm 1).

    The nodes stand on a ring in an order drawn from ``entropy``; each is the neighbour of the degree/2 next ones on
    both sides.

    Args:
        num_nodes: more than degree + 1.
        degree: even.
    """

    def __init__(self, num_nodes: int, degree: int, entropy: EntropySource) -> None:
        if degree % 2 or not 2 <= degree < num_nodes - 1:
            raise ValueError(f"a Harary graph of {num_nodes} nodes has no degree {degree}")
        self.num_nodes = num_nodes
        self.neighborhood_size = degree + 1
        # Sorting by 64 random bits a node: two nodes tie, and the order is not uniform, with probability n^2 / 2^65.
        order = np.argsort(np.frombuffer(draw(entropy, 8 * num_nodes), dtype="<u8"), kind="stable")
        window = np.arange(-(degree // 2), degree // 2 + 1)
        members = np.empty((num_nodes, degree + 1), dtype=np.intp)
        members[order] = np.sort(order[(np.arange(num_nodes)[:, None] + window) % num_nodes], axis=1)
        self.members = members
        # Edges (member, node), sorted, list each member's neighbourhood in order: an edge's rank there is its place.
        edges = members * num_nodes + np.arange(num_nodes)[:, None]
        places = np.empty(members.size, dtype=np.intp)
        places[np.argsort(edges, axis=None)] = np.arange(members.size) % (degree + 1)
        self._places = places.reshape(members.shape)

    def neighborhood(self, node: int) -> Places:
        members: Places = self.members[node]
        return members

    def places_of(self, node: int) -> Places:
        places: Places = self._places[node]
        return places

    def count(self, flags: NodeFlags) -> Places:
        counts: Places = flags[self.members].sum(axis=1, dtype=np.intp)
        return counts


def build_graph(params: Parameters, num_nodes: int, entropy: EntropySource) -> Graph:
    """The graph of these parameters on so many nodes; complete where all of them fit one neighbourhood."""
    if num_nodes <= params.degree + 1:
        return CompleteGraph(num_nodes)
    return HararyGraph(num_nodes, params.degree, entropy)
