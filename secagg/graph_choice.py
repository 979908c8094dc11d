"""Choose the graph that is cheapest for a threat model, and say why."""

from dataclasses import dataclass, replace
from typing import Any

from secagg.errors import PlanError
from secagg.params import Adversary, Parameters
from secagg.planner import SPARSE_ALLOWS, GraphKind, Plan, fraction_of, plan
from secagg.sparse_bounds import SECURITY_BITS

SPARSE_RESERVE = 0.05
"""The least fractions of dropouts and of corrupt clients for which fronts plan a sparse graph: it has no spare ones."""

# Fewer neighbours than this cost a client milliseconds: too little to give up what only the complete graph withstands.
_WORTHWHILE = 50

# Two public keys received, an encrypted share sent and one received, a share sent for unmasking.
_BYTES_A_NEIGHBOR = 64 + 2 * 52 + 18


@dataclass(frozen=True, slots=True)
class GraphChoice:
    """The graph for a session, and the reason in one sentence.

    Attributes:
        graph: the graph.
        dropout, corrupt: the fractions for which to plan: on a sparse graph, `sparse_threat`.
        why: the reason.
    """

    graph: GraphKind
    dropout: float
    corrupt: float
    why: str

    def explained(self, plan: Plan) -> Plan:
        """Return a plan for this graph with the reason."""
        return replace(plan, why=self.why, reasons=(self.why, *plan.reasons))


def cheapest_graph(
    *,
    num_clients: int,
    dropout: float = 0.0,
    corrupt: float = 0.0,
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS,
    threshold: int | None = None,
    min_inputs: int = 2,
) -> GraphChoice:
    """Return the graph with the least work for each client among those that are safe for a threat model.

    A client's work and traffic, beside its vector, grow with the number of its neighbours. The sparse graph is not
    chosen if it saves few neighbours, nor in the signed modes: there a server that lies can bring a sum down to few
    inputs on it, and a client's usual `SessionPolicy` declines it. If no graph works, the choice is the complete graph,
    whose `plan` gives the reasons.

    Args:
        num_clients, dropout, corrupt, adversary, threshold, min_inputs: as for `plan`.
    """

    stated: dict[str, Any] = {
        "num_clients": num_clients,
        "corrupt": corrupt,
        "adversary": adversary,
        "threshold": threshold,
        "min_inputs": min_inputs,
    }
    sparse_dropout, sparse_corrupt = sparse_threat(dropout=dropout, **stated)

    def choice(graph: GraphKind, why: str) -> GraphChoice:
        planned_for = (dropout, corrupt) if graph is GraphKind.COMPLETE else (sparse_dropout, sparse_corrupt)
        return GraphChoice(graph, *planned_for, f"graph {graph.value}: {why}")

    sparse = _parameters(GraphKind.SPARSE, dropout=sparse_dropout, **{**stated, "corrupt": sparse_corrupt})
    complete = _parameters(GraphKind.COMPLETE, dropout=dropout, **stated)
    if isinstance(sparse, PlanError) or sparse.is_complete:
        return choice(GraphKind.COMPLETE, f"no sparse graph of {num_clients} clients is safe and works for this threat")
    if isinstance(complete, Parameters) and complete.degree - sparse.degree < _WORTHWHILE:
        return choice(
            GraphKind.COMPLETE,
            f"for {num_clients} clients it costs little more than a sparse one of {sparse.degree} neighbours, and is "
            f"safe with {_most_corrupt(complete)} of them corrupt",
        )
    if adversary is not Adversary.HONEST_BUT_CURIOUS:
        return choice(
            GraphKind.COMPLETE,
            f"clients that do not trust the server decline a sparse one, of {sparse.degree} neighbours, unless told "
            "otherwise",
        )
    if isinstance(complete, PlanError):
        reason = complete.reasons[0].removesuffix(SPARSE_ALLOWS)
        return choice(
            GraphKind.SPARSE, f"the complete graph has no plan ({reason}), one of {sparse.degree} neighbours has"
        )
    return choice(
        GraphKind.SPARSE,
        f"{sparse.degree} neighbours for each client, not {complete.degree}, cut its work to "
        f"{sparse.degree / complete.degree:.0%}, and its traffic beside its vector to {_kilobytes(sparse)} from "
        f"{_kilobytes(complete)}; safe, except with probability 2^-{SECURITY_BITS}, while at most "
        f"{fraction_of(sparse_dropout, num_clients)} clients vanish and {fraction_of(sparse_corrupt, num_clients)} are "
        f"corrupt: the complete graph with {_most_corrupt(complete)}, whoever vanishes",
    )


def _most_corrupt(complete: Parameters) -> int:
    """Return the most corrupt clients with which the server learns no input but from the sum; docs/threat-model.md."""
    least_unsafe = 2 * complete.threshold - complete.num_clients if complete.is_signed else complete.threshold
    return least_unsafe - 1


def sparse_threat(*, dropout: float, corrupt: float, **others: Any) -> tuple[float, float]:
    """Return the fractions of dropouts and of corrupt clients for which to plan a sparse graph.

    Both are at least SPARSE_RESERVE. If there is no such plan, or a threshold is given, the fraction of corrupt clients
    is the stated one.

    Args:
        dropout, corrupt: the stated fractions.
        others: the other arguments of `cheapest_graph`.
    """
    # What is not a fraction stays, so that the planner refuses it.
    reserved = [max(stated, SPARSE_RESERVE) if stated >= 0 else stated for stated in (dropout, corrupt)]
    if others.get("threshold") is None:
        made = _parameters(GraphKind.SPARSE, dropout=reserved[0], corrupt=reserved[1], **others)
        if isinstance(made, Parameters) and not made.is_complete:
            return reserved[0], reserved[1]
    return reserved[0], corrupt


def _parameters(graph: GraphKind, **numbers: Any) -> Parameters | PlanError:
    try:
        return plan(vector_length=1, value_bits=1, graph=graph, **numbers).parameters
    except PlanError as error:
        return error


def _kilobytes(params: Parameters) -> str:
    return f"{params.degree * _BYTES_A_NEIGHBOR / 1000:.0f} kB"
