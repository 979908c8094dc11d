"""What a client asks of a session before it takes part: the server proposes, and is not believed."""

from dataclasses import dataclass
from math import floor

from secagg.errors import PolicyError
from secagg.params import Adversary, Parameters
from secagg.planner import GraphKind
from secagg.sparse_bounds import SparseBounds

# To tell what is safe takes memory for each of them.
_MOST_SPARSE = 1 << 20

_ORDER = (Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """What a client insists on. The defaults are safe against a server that lies at any time.

    Whoever trusts the server says so: ``SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS)``.

    Attributes:
        adversary: the weakest adversary that a session may be safe against.
        min_inputs: the fewest inputs that a sum may be of, this client's included, whatever the server does within
            the mode: the threshold on the complete graph; on a sparse one, in the signed modes, 2t - k + 1 (of t and
            degree k), which a server that lies can bring a sum down to (docs/threat-model.md).
        max_elements: the longest vectors to take part with: the server says how long they are, and a client needs some
            30 bytes of memory for each element.
        graph: COMPLETE refuses sparse graphs; SPARSE takes both. A sparse graph must have at least the degree, and at
            least the threshold, that `secagg.plan` takes for ``num_clients``.
        corrupt: on sparse graphs, the fraction of clients that this client assumes to share what they know with the
            server, in [0, 1).
    """

    adversary: Adversary = Adversary.MALICIOUS
    min_inputs: int = 3
    max_elements: int = 1 << 27
    graph: GraphKind = GraphKind.COMPLETE
    corrupt: float = 0.0

    def check(self, params: Parameters) -> None:
        """Raise PolicyError, with every reason, unless the session's parameters are what this client agrees to."""
        reasons = self._graph_reasons(params)
        if (fewest := _fewest_inputs(params)) < self.min_inputs:
            reasons.append(f"a sum of {fewest} inputs would do, but this client asks for {self.min_inputs}")
        if _ORDER.index(params.adversary) < _ORDER.index(self.adversary):
            reasons.append(
                f"the session is in {params.adversary.value} mode, but this client asks for "
                f"{self.adversary.value} mode or a safer one"
            )
        if params.vector_length > self.max_elements:
            reasons.append(f"vectors of {params.vector_length} elements, but this client takes {self.max_elements}")
        if params.modular:
            reasons.append("sums may wrap, and what wraps is no mean")
        if reasons:
            raise PolicyError("; ".join(reasons))

    def _graph_reasons(self, params: Parameters) -> list[str]:
        n, degree, threshold = params.num_clients, params.degree, params.threshold
        if params.is_complete:
            if 2 * threshold > n:
                return []
            return [f"the threshold is {threshold} of {n}, but more than half must be needed to unmask anyone"]
        if self.graph is GraphKind.COMPLETE:
            return [
                f"a sparse graph, of {degree} neighbours among {n} clients, but this client takes the complete graph "
                "only: its policy must allow sparse graphs"
            ]
        if n > _MOST_SPARSE:
            return [f"a sparse graph of {n} clients, but this client looks at no more than {_MOST_SPARSE}"]
        bounds = SparseBounds(n, floor(self.corrupt * n), 0, n, semi_malicious=params.is_signed)
        planned = bounds.smallest()
        if planned is None:
            return [f"a sparse graph of {n} clients, for whom only the complete graph is safe"]
        if degree < planned[0]:
            return [f"{degree} neighbours, but {n} clients need at least {planned[0]} to be safe"]
        safe = bounds.threshold(degree)
        if safe is None or threshold < safe:
            return [f"the threshold is {threshold} of {degree}, but at least {safe} is safe with so many neighbours"]
        return []


def _fewest_inputs(params: Parameters) -> int:
    """The fewest inputs, an honest client's included, that a sum can be brought down to if no client is corrupt."""
    if params.is_complete or not params.is_signed:
        return params.threshold
    return 2 * params.threshold - params.degree + 1
