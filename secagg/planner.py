"""From a threat model to parameters: every number is made to add up before a round starts.

Complete graph (paper, figure 5): against the server alone t = floor(n/2) + 1; against the server together with
clients t = floor(2n/3) + 1, which stands fewer than n/3 corrupt ones.
"""

from dataclasses import dataclass
from math import ceil, floor

from secagg.algebra import ring
from secagg.errors import PlanError
from secagg.params import Adversary, Parameters, required_ring_bits

# 0.29 * 100 is 28.999...: fractions of n are meant as written, not as binary rounds them.
_EPSILON = 1e-14


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters, and why they are as they are.

    Attributes:
        parameters: what `Client` and `Server` take.
        corrupt_clients: how many clients may collude with the server (A).
        expected_dropouts: how many clients may vanish (D).
        spare_clients: how many more than expected may vanish before the session aborts.
        reasons: one sentence for each number chosen.
    """

    parameters: Parameters
    corrupt_clients: int
    expected_dropouts: int
    spare_clients: int
    reasons: tuple[str, ...]


def plan(
    *,
    num_clients: int,
    vector_length: int,
    value_bits: int | None = None,
    max_value: int | None = None,
    max_weight: int = 1,
    dropout: float = 0.0,
    corrupt: float = 0.0,
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS,
    threshold: int | None = None,
) -> Plan:
    """The parameters for a threat model, on the complete graph.

    Args:
        num_clients: clients that take part.
        vector_length: elements of each vector.
        value_bits: inputs are in [0, 2^value_bits); or give ``max_value``.
        max_value: the largest value an element takes before it is weighted.
        max_weight: the largest integer weight that a client multiplies its values by.
        dropout: the fraction of clients expected to vanish during a session, in [0, 1).
        corrupt: the fraction of clients that may share what they know with the server, in [0, 1).
        adversary: whom to be safe against.
        threshold: a larger threshold than the one that the threat model asks for.

    Raises:
        PlanError: naming every constraint that fails, and by how much.
    """
    reasons = _broken_inputs(num_clients, value_bits, max_value, max_weight, dropout, corrupt, threshold)
    if reasons:
        raise PlanError(tuple(reasons))
    corrupt_clients = floor((corrupt + _EPSILON) * num_clients)
    dropouts = floor((dropout + _EPSILON) * num_clients)

    smallest = floor(2 * num_clients / 3) + 1 if corrupt_clients else num_clients // 2 + 1
    rule = "floor(2n/3) + 1, the server with corrupt clients" if corrupt_clients else "floor(n/2) + 1, the server alone"
    chosen = smallest if threshold is None else threshold
    if chosen < smallest:
        reasons.append(f"threshold {chosen} is below the {smallest} that is safe here ({rule})")
    most_corrupt = ceil(num_clients / 3) - 1
    if corrupt_clients > most_corrupt:
        reasons.append(
            f"{corrupt_clients} corrupt clients of {num_clients}, but at most {most_corrupt} (fewer than n/3)"
        )
    remaining = num_clients - dropouts
    if remaining < chosen:
        reasons.append(
            f"{dropouts} of {num_clients} clients are expected to vanish and {remaining} to remain, "
            f"{chosen - remaining} fewer than the threshold {chosen}"
        )

    weighted_bits, ring_bits = _widths(num_clients, value_bits, max_value, max_weight)
    if ring_bits > ring.MAX_RING_BITS:
        reasons.append(
            f"the sum of {num_clients} inputs of {weighted_bits} bits needs {ring_bits} bits, "
            f"{ring_bits - ring.MAX_RING_BITS} more than the largest ring has: use smaller values or weights"
        )
        ring_bits = weighted_bits = ring.MAX_RING_BITS
    try:
        parameters = Parameters(
            num_clients=num_clients,
            threshold=max(2, min(chosen, num_clients)),
            degree=max(1, num_clients - 1),
            vector_length=vector_length,
            value_bits=weighted_bits,
            ring_bits=ring_bits,
            # Only hides a second report of the ring that is too small already.
            modular=bool(reasons),
            adversary=adversary,
        )
    except PlanError as error:
        raise PlanError((*reasons, *error.reasons)) from None
    if reasons:
        raise PlanError(tuple(reasons))
    return Plan(
        parameters,
        corrupt_clients,
        dropouts,
        remaining - chosen,
        (
            f"threshold {chosen}: {rule}" + ("" if chosen == smallest else f", asked for more than its {smallest}"),
            f"degree {parameters.degree}: the complete graph, everyone shares masks with everyone",
            f"{dropouts} clients may vanish as expected, and {remaining - chosen} more before the session aborts",
            f"ring of {ring_bits} bits: holds the sum of {num_clients} inputs of {weighted_bits} bits without overflow",
        ),
    )


def _widths(num_clients: int, value_bits: int | None, max_value: int | None, max_weight: int) -> tuple[int, int]:
    """Bits of a weighted value, and of a sum of them."""
    largest = max_value if max_value is not None else (1 << (value_bits or 1)) - 1
    weighted_bits = (largest * max_weight).bit_length()
    return weighted_bits, required_ring_bits(num_clients, weighted_bits)


def _broken_inputs(
    num_clients: int,
    value_bits: int | None,
    max_value: int | None,
    max_weight: int,
    dropout: float,
    corrupt: float,
    threshold: int | None,
) -> list[str]:
    reasons = []
    integers = {"num_clients": num_clients, "max_weight": max_weight}
    optional = {"value_bits": value_bits, "max_value": max_value, "threshold": threshold}
    integers.update({name: value for name, value in optional.items() if value is not None})
    for name, value in integers.items():
        if type(value) is not int:
            reasons.append(f"{name} must be an int, not {type(value).__name__}")
        elif value < 1:
            reasons.append(f"{name} is {value}, but must be at least 1")
    if (value_bits is None) == (max_value is None):
        reasons.append("give either value_bits or max_value")
    for name, fraction in (("dropout", dropout), ("corrupt", corrupt)):
        if not 0 <= fraction < 1:
            reasons.append(f"{name} is {fraction}, but must be a fraction: at least 0 and below 1")
    return reasons
