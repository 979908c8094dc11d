"""Graphs of neighbours: the pairs of clients that share masks and secrets.

Nodes are the places 0..n-1 of the advertised clients, sorted by id.  A node's *neighbourhood* is sorted and includes
the node itself. The place of a share's holder in the owner's neighbourhood is the evaluation point of the share. In the
complete graph of Bonawitz et al. (2017), each neighbourhood holds all nodes.
"""

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg.params import Parameters
from secagg.primitives.entropy import EntropySource, draw

Places: TypeAlias = npt.NDArray[np.intp]
NodeFlags: TypeAlias = npt.NDArray[np.bool_]
"""One flag for each node, shape (num_nodes,)."""


class Graph(Protocol):
    """A symmetric neighbour relation on the nodes 0..num_nodes-1."""

    @property
    def num_nodes(self) -> int: ...

    @property
    def neighborhood_size(self) -> int:
        """Return the number of nodes in each neighbourhood, the node itself included."""
        ...

    @property
    def members(self) -> Places:
        """Return each node with its neighbours, ascending, shape (num_nodes, neighborhood_size). Read-only."""
        ...

    def neighborhood(self, node: int) -> Places:
        """Return the node and its neighbours, ascending."""
        ...

    def places_of(self, node: int) -> Places:
        """Return the place of ``node`` in the neighbourhood of each member of its neighbourhood, in their order."""
        ...

    def count(self, flags: NodeFlags) -> Places:
        """Return the number of flagged nodes in each neighbourhood, shape (num_nodes,)."""
        ...


class CompleteGraph:
    """The graph in which all nodes are neighbours."""

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

    The nodes stand on a ring in an order drawn from ``entropy``; each is a neighbour of the degree/2 nearest nodes on
    both sides.

    Args:
        num_nodes: more than degree + 1.
        degree: even.
    """

    def __init__(self, num_nodes: int, degree: int, entropy: EntropySource) -> None:
        if degree % 2 or not 2 <= degree < num_nodes - 1:
            raise ValueError(f"a Harary graph of {num_nodes} nodes cannot have degree {degree}")
        self.num_nodes = num_nodes
        self.neighborhood_size = degree + 1
        # Sort by 64 random bits for each node: two nodes tie, so that the order is not uniform, with probability n^2
        # / 2^65.
        order = np.argsort(np.frombuffer(draw(entropy, 8 * num_nodes), dtype="<u8"), kind="stable")
        self._order = order
        window = np.arange(-(degree // 2), degree // 2 + 1)
        members = np.empty((num_nodes, degree + 1), dtype=np.intp)
        members[order] = np.sort(order[(np.arange(num_nodes)[:, None] + window) % num_nodes], axis=1)
        self.members = members
        # The sorted edges (member, node) list each member's neighbourhood in order, so an edge's rank there is its
        # place.
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
        # A neighbourhood is a window of the ring: differences of running totals, whatever the degree.
        size, half = self.neighborhood_size, self.neighborhood_size // 2
        on_ring = flags[self._order]
        totals = np.cumsum(np.concatenate((np.zeros(1, dtype=bool), on_ring[-half:], on_ring, on_ring[:half])))
        counts = np.empty(self.num_nodes, dtype=np.intp)
        counts[self._order] = totals[size:] - totals[:-size]
        return counts


def build_graph(params: Parameters, num_nodes: int, entropy: EntropySource) -> Graph:
    """Return the graph of these parameters on ``num_nodes`` nodes; complete if they all fit one neighbourhood."""
    if num_nodes <= params.degree + 1:
        return CompleteGraph(num_nodes)
    return HararyGraph(num_nodes, params.degree, entropy)
