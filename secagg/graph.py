"""Who is whose neighbour.

Nodes are the places 0..n-1 of the advertised clients, sorted by id.  A node's *neighbourhood* includes the node
itself, sorted; the place of a share's holder in the owner's neighbourhood is the share's evaluation point.
The complete graph of Bonawitz et al. (2017) is the graph in which every neighbourhood is everybody.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.intp]


class Graph(Protocol):
    """A symmetric neighbour relation on the nodes 0..num_nodes-1."""

    @property
    def num_nodes(self) -> int: ...

    def neighborhood(self, node: int) -> Places:
        """The node and its neighbours, ascending."""
        ...

    def places_of(self, node: int) -> Places:
        """Where ``node`` stands in the neighbourhood of each member of its own, in the same order."""
        ...


class CompleteGraph:
    """Everyone is everyone's neighbour."""

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes
        self._everyone = np.arange(num_nodes, dtype=np.intp)

    def neighborhood(self, node: int) -> Places:
        return self._everyone

    def places_of(self, node: int) -> Places:
        return np.full(self.num_nodes, node, dtype=np.intp)
