"""Plans as plain values for JSON."""

from typing import Any

from secagg import GraphKind, Parameters, Plan


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan's parameters and reasons as plain values."""
    params = plan.parameters
    return {
        "num_clients": params.num_clients,
        "threshold": params.threshold,
        "degree": params.degree,
        "graph": graph_of(params).value,
        "ring_bits": params.ring_bits,
        "value_bits": params.value_bits,
        "vector_length": params.vector_length,
        "adversary": params.adversary.value,
        "corrupt_clients": plan.corrupt_clients,
        "expected_dropouts": plan.expected_dropouts,
        "spare_clients": plan.spare_clients,
        "why": plan.why,
        "reasons": list(plan.reasons),
    }


def graph_of(params: Parameters) -> GraphKind:
    """Return the graph of a session's clients."""
    return GraphKind.COMPLETE if params.is_complete else GraphKind.SPARSE
