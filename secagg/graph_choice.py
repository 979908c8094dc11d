"""Choose the graph that is cheapest for a threat model, and say why."""

from dataclasses import dataclass, replace

from secagg.errors import PlanError
from secagg.params import Adversary, Parameters
from secagg.planner import SPARSE_ALLOWS, GraphKind, Plan, fraction_of, plan
from secagg.sparse_bounds import SECURITY_BITS

SPARSE_RESERVE = 0.05
"""The least fraction of dropouts for which a chosen sparse graph is planned: it has no spare clients beyond those."""

# Fewer neighbours than this cost a client milliseconds: too little to give up what only the complete graph withstands.
_WORTHWHILE = 50

# Two public keys received, an encrypted share sent and one received, a share sent for unmasking.
_BYTES_A_NEIGHBOR = 64 + 2 * 52 + 18


@dataclass(frozen=True, slots=True)
class GraphChoice:
    """The graph for a session, and the reason in one sentence.

    Attributes:
        graph: the graph.
        dropout: the fraction of dropouts for which to plan: on a sparse graph at least SPARSE_RESERVE.
        why: the reason.
    """

    graph: GraphKind
    dropout: float
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

    def parameters(graph: GraphKind) -> Parameters | PlanError:
        try:
            return plan(
                num_clients=num_clients,
                vector_length=1,
                value_bits=1,
                dropout=dropout if graph is GraphKind.COMPLETE else with_reserve(dropout),
                corrupt=corrupt,
                adversary=adversary,
                graph=graph,
                threshold=threshold,
                min_inputs=min_inputs,
            ).parameters
        except PlanError as error:
            return error

    def choice(graph: GraphKind, why: str) -> GraphChoice:
        planned_for = dropout if graph is GraphKind.COMPLETE else with_reserve(dropout)
        return GraphChoice(graph, planned_for, f"graph {graph.value}: {why}")

    sparse, complete = parameters(GraphKind.SPARSE), parameters(GraphKind.COMPLETE)
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
        f"{fraction_of(with_reserve(dropout), num_clients)} clients vanish and {fraction_of(corrupt, num_clients)} are "
        f"corrupt: the complete graph with {_most_corrupt(complete)}, whoever vanishes",
    )


def _most_corrupt(complete: Parameters) -> int:
    """Return the most corrupt clients with which the server learns no input but from the sum; docs/threat-model.md."""
    least_unsafe = 2 * complete.threshold - complete.num_clients if complete.is_signed else complete.threshold
    return least_unsafe - 1


def with_reserve(dropout: float) -> float:
    """Return the fraction of dropouts for which to plan a sparse graph."""
    # What is no fraction stays, so that the planner refuses it.
    return max(dropout, SPARSE_RESERVE) if dropout >= 0 else dropout


def _kilobytes(params: Parameters) -> str:
    return f"{params.degree * _BYTES_A_NEIGHBOR / 1000:.0f} kB"
