"""Plans as plain values for JSON."""

from typing import Any

from secagg import Plan


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Return a plan's parameters and reasons as plain values."""
    params = plan.parameters
    return {
        "num_clients": params.num_clients,
        "threshold": params.threshold,
        "degree": params.degree,
        "ring_bits": params.ring_bits,
        "value_bits": params.value_bits,
        "vector_length": params.vector_length,
        "adversary": params.adversary.value,
        "corrupt_clients": plan.corrupt_clients,
        "expected_dropouts": plan.expected_dropouts,
        "spare_clients": plan.spare_clients,
        "reasons": list(plan.reasons),
    }
