"""A client's conditions for taking part in a session. The server proposes; the client checks."""

from dataclasses import dataclass

from secagg.errors import PolicyError
from secagg.params import Adversary, Parameters
from secagg.planner import GraphKind, complete_graph_faults, fraction_of
from secagg.sparse_bounds import MOST_CLIENTS, SparseBounds, fewest_inputs

_ORDER = (Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """The conditions of a client. The defaults are safe against a server that lies at any time.

    A client that trusts the server to follow the protocol takes
    ``SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS)``. A plan of `secagg.plan` for the same threat model and
    ``min_inputs`` is accepted, since both use the same rules; but a client that does not trust the server takes a
    sparse graph only if ``graph`` says so.

    Attributes:
        adversary: the weakest adversary that a session may be safe against.
        min_inputs: the fewest inputs, this client's included, that a sum may contain, even if the server does its
            worst within the mode: the threshold t on the complete graph. On a sparse graph of degree k it is t + 1,
            and in the signed modes 2t - k + 1, to which a lying server can bring a sum down (docs/threat-model.md).
        max_elements: the largest vector length; the server chooses the length, and a client needs about 30 bytes of
            memory for each element.
        graph: COMPLETE refuses sparse graphs; SPARSE takes both. By default a client that trusts the server to follow
            the protocol (``adversary`` is honest-but-curious) takes both, since such a server draws the graph as
            planned; other clients take the complete graph only, where no lie brings a sum down to a few inputs. A
            sparse graph must have at least the degree and the threshold that `secagg.plan` chooses for
            ``num_clients``.
        corrupt: the fraction of clients assumed to share their knowledge with the server, in [0, 1).
        may_wrap: whether sums may wrap around on purpose, as noisy ones do; the client must then encode its input for
            that.
    """

    adversary: Adversary = Adversary.MALICIOUS
    min_inputs: int = 3
    max_elements: int = 1 << 27
    graph: GraphKind | None = None
    corrupt: float = 0.0
    may_wrap: bool = False

    def __post_init__(self) -> None:
        if self.graph is None:
            trusts = self.adversary is Adversary.HONEST_BUT_CURIOUS
            object.__setattr__(self, "graph", GraphKind.SPARSE if trusts else GraphKind.COMPLETE)

    def check(self, params: Parameters) -> None:
        """Raise PolicyError, with all reasons, if this client does not accept the parameters."""
        reasons = self._graph_reasons(params)
        if (fewest := _fewest_inputs(params)) < self.min_inputs:
            reasons.append(f"the sum could contain only {fewest} inputs, but this client asks for {self.min_inputs}")
        if _ORDER.index(params.adversary) < _ORDER.index(self.adversary):
            reasons.append(
                f"the session is in {params.adversary.value} mode, but this client asks for "
                f"{self.adversary.value} mode or a safer one"
            )
        if params.vector_length > self.max_elements:
            reasons.append(f"vectors of {params.vector_length} elements, but this client takes {self.max_elements}")
        if params.modular and not self.may_wrap:
            reasons.append("sums may wrap around, and such a sum gives no mean")
        if reasons:
            raise PolicyError("; ".join(reasons))

    def _graph_reasons(self, params: Parameters) -> list[str]:
        n, degree, threshold = params.num_clients, params.degree, params.threshold
        corrupt_clients = fraction_of(self.corrupt, n)
        if params.is_complete:
            return complete_graph_faults(n, threshold, corrupt_clients, colluding=self.corrupt > 0)
        if self.graph is not GraphKind.SPARSE:
            return [
                f"a sparse graph, of {degree} neighbours among {n} clients, but this client takes the complete graph "
                "only: its policy must allow sparse graphs"
            ]
        if n > MOST_CLIENTS:
            return [f"a sparse graph of {n} clients, but this client takes at most {MOST_CLIENTS}"]
        # Dropouts do not matter here: they make no unsafe degree safe, and no safe degree unsafe.
        bounds = SparseBounds(n, corrupt_clients, 0, n, semi_malicious=params.is_signed)
        safe = bounds.threshold(degree)
        if safe is not None and threshold >= safe:
            return []
        planned = bounds.smallest()
        if planned is None:
            return [f"a sparse graph of {n} clients, but for so few only the complete graph is safe"]
        if degree < planned[0]:
            return [f"{degree} neighbours, but {n} clients need at least {planned[0]} to be safe"]
        if safe is None:
            return [f"{degree} neighbours, for which no threshold is safe; {planned[0]} of {n} clients are enough"]
        return [f"the threshold is {threshold} of {degree}, but at least {safe} is safe with that many neighbours"]


def _fewest_inputs(params: Parameters) -> int:
    """Return the fewest inputs that a sum can be brought down to if no client is corrupt."""
    if params.is_complete:
        return params.threshold
    return fewest_inputs(params.threshold, params.degree, lies=params.is_signed)
