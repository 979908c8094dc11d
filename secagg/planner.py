"""Turn a threat model into parameters, and check before a round starts that all numbers add up.

Complete graph (paper, figure 5): against the server alone t = floor(n/2) + 1; against the server together with fewer
than n/3 corrupt clients t = floor(2n/3) + 1.  Sparse graph: `secagg.sparse_bounds`.
"""

from dataclasses import dataclass
from enum import Enum, unique
from math import ceil, floor

from secagg.algebra import ring, shamir
from secagg.errors import PlanError
from secagg.params import MAX_CLIENTS, Adversary, Parameters, required_ring_bits
from secagg.sparse_bounds import CORRECTNESS_BITS, MOST_CLIENTS, SECURITY_BITS, SparseBounds

# 0.29 * 100 is 28.999... in binary, but the user means 29.
_EPSILON = 1e-14

SPARSE_ALLOWS = "; a sparse graph allows it"
"""The end of a reason against the complete graph where the sparse one has a plan."""


@unique
class GraphKind(Enum):
    """Graph of the clients that share masks: all pairs, or each client with a few at random (Bell et al. 2020)."""

    COMPLETE = "complete"
    SPARSE = "sparse"


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters of a session, with the reasons for them.

    Attributes:
        parameters: the parameters for `Client` and `Server`.
        corrupt_clients: number of clients that may collude with the server (A).
        expected_dropouts: number of clients that may vanish (D).
        spare_clients: number of clients beyond these that may vanish before the session aborts; None on a sparse
            graph, where it depends on which clients they are.
        reasons: one sentence for each chosen number.
        why: the reason for the graph, if `cheapest_graph` chose it; it is also the first of ``reasons``.
    """

    parameters: Parameters
    corrupt_clients: int
    expected_dropouts: int
    spare_clients: int | None
    reasons: tuple[str, ...]
    why: str | None = None


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
    graph: GraphKind = GraphKind.COMPLETE,
    threshold: int | None = None,
    min_inputs: int = 2,
) -> Plan:
    """Return the parameters for a threat model. Clients whose `SessionPolicy` has the same threat model accept them.

    In the signed modes a client takes sparse graphs only if its policy says so.

    Args:
        num_clients: number of clients that take part.
        vector_length: number of elements of each vector.
        value_bits: inputs are in [0, 2^value_bits); give either this or ``max_value``.
        max_value: the largest value of an element, before it is multiplied by a weight.
        max_weight: the largest integer weight that a client multiplies its values by.
        dropout: fraction of clients expected to vanish during a session, in [0, 1). More dropouts need a lower
            threshold, and so leave less room for corrupt clients.
        corrupt: fraction of clients that may share their knowledge with the server, in [0, 1).
        adversary: the server to be safe against.
        graph: COMPLETE, or SPARSE for the smallest degree that is safe except with probability 2^-40 and works except
            with probability 2^-20. If no degree below n - 1 is, the complete graph is used.
        threshold: a larger threshold than the threat model needs: safer, but with room for fewer dropouts.
        min_inputs: the fewest inputs that clients accept in a sum, as in their `SessionPolicy`.

    Raises:
        PlanError: a constraint fails; the error names all of them with their margins.
    """
    reasons = _broken_numbers(num_clients, value_bits, max_value, max_weight, threshold, min_inputs)
    reasons += _broken_model(dropout, corrupt, adversary, graph)
    if graph is GraphKind.SPARSE and not reasons and num_clients > MOST_CLIENTS:
        reasons.append(f"a sparse graph of {num_clients} clients, but clients accept at most {MOST_CLIENTS}")
    if reasons:
        raise PlanError((*reasons, *_broken_length(vector_length)))
    corrupt_clients, dropouts = fraction_of(corrupt, num_clients), fraction_of(dropout, num_clients)
    # In the signed modes the bounds hold against a lying server if the graph is drawn at random; docs/threat-model.md.
    lies = adversary is not Adversary.HONEST_BUT_CURIOUS
    remaining = num_clients - dropouts
    bounds = SparseBounds(num_clients, corrupt_clients, dropouts, remaining, semi_malicious=lies, min_inputs=min_inputs)
    choice = None
    if graph is GraphKind.SPARSE:
        choice = _sparse_choice(bounds, dropouts, adversary, threshold, reasons)
    if choice is None:
        choice = _complete_choice(num_clients, corrupt_clients, dropouts, threshold, reasons, corrupt > 0, min_inputs)
        if reasons and graph is GraphKind.COMPLETE and threshold is None and _is_possible(bounds, num_clients):
            reasons[-1] += SPARSE_ALLOWS

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
            threshold=max(2, min(choice.threshold, num_clients)),
            degree=max(1, choice.degree),
            vector_length=vector_length,
            value_bits=weighted_bits,
            ring_bits=ring_bits,
            # With reasons found, do not report a second time that the ring is too small.
            modular=bool(reasons),
            adversary=adversary,
        )
    except PlanError as error:
        raise PlanError((*reasons, *error.reasons)) from None
    if reasons:
        raise PlanError(tuple(reasons))
    width = f"ring of {ring_bits} bits: holds the sum of {num_clients} inputs of {weighted_bits} bits without overflow"
    return Plan(parameters, corrupt_clients, dropouts, choice.spare_clients, (*choice.reasons, width))


@dataclass(frozen=True, slots=True)
class _Choice:
    """The degree and threshold of a graph, and the reasons for them."""

    degree: int
    threshold: int
    spare_clients: int | None
    reasons: tuple[str, ...]


def fraction_of(fraction: float, num_clients: int) -> int:
    """Return ``fraction`` of the clients as a number, rounded down."""
    return floor((fraction + _EPSILON) * num_clients)


def complete_graph_faults(num_clients: int, threshold: int, corrupt_clients: int, *, colluding: bool) -> list[str]:
    """Return the reasons why a threshold is not safe on the complete graph, for `plan` and `SessionPolicy`."""
    faults = []
    smallest, rule = _complete_rule(num_clients, colluding)
    if threshold < smallest:
        share = "two thirds" if colluding else "half"
        faults.append(f"threshold {threshold} is below the {smallest} that is safe here ({rule}): more than {share}")
    most_corrupt = ceil(num_clients / 3) - 1
    if corrupt_clients > most_corrupt:
        faults.append(
            f"{corrupt_clients} corrupt clients of {num_clients}, but at most {most_corrupt} (fewer than n/3)"
        )
    return faults


def _complete_rule(num_clients: int, colluding: bool) -> tuple[int, str]:
    """Return the smallest safe threshold, and the reason.

    ``colluding`` holds for any fraction of corrupt clients above 0, even one below a whole client.
    """
    if colluding:
        return 2 * num_clients // 3 + 1, "floor(2n/3) + 1, the server with corrupt clients"
    return num_clients // 2 + 1, "floor(n/2) + 1, the server alone"


def _complete_choice(
    num_clients: int,
    corrupt_clients: int,
    dropouts: int,
    threshold: int | None,
    reasons: list[str],
    colluding: bool,
    min_inputs: int,
) -> _Choice:
    """Return the choice for the complete graph; add what does not work to ``reasons``."""
    (smallest, rule), why = _complete_rule(num_clients, colluding), ""
    if smallest < min_inputs:
        smallest, rule = min_inputs, f"clients ask for sums of at least {min_inputs} inputs (min_inputs)"
        why = f": {rule}"
    chosen = smallest if threshold is None else threshold
    reasons += complete_graph_faults(num_clients, chosen, corrupt_clients, colluding=colluding)
    if chosen < min_inputs:
        reasons.append(f"threshold {chosen}, but {rule}")
    remaining = num_clients - dropouts
    if remaining < chosen:
        reasons.append(
            f"{dropouts} of {num_clients} clients are expected to vanish and {remaining} to remain, "
            f"{chosen - remaining} fewer than the threshold {chosen}{why}"
        )
    spare = remaining - chosen
    asked = "" if chosen == smallest else f", asked for more than its {smallest}"
    return _Choice(
        num_clients - 1,
        chosen,
        spare,
        (
            f"threshold {chosen}: {rule}{asked}",
            f"degree {num_clients - 1}: the complete graph, everyone shares masks with everyone",
            f"{dropouts} clients may vanish as expected, and {spare} more before the session aborts",
        ),
    )


def _is_possible(bounds: SparseBounds, num_clients: int) -> bool:
    """Return whether the sparse graph works where the complete one does not."""
    found = bounds.smallest() if num_clients <= MOST_CLIENTS else None
    return found is not None and found[0] < shamir.MAX_HOLDERS


def _sparse_choice(
    bounds: SparseBounds, dropouts: int, adversary: Adversary, threshold: int | None, reasons: list[str]
) -> _Choice | None:
    """Return the choice for the sparse graph, or None if no degree below n - 1 works."""
    found = bounds.smallest()
    if found is None:
        return None
    degree, smallest = found
    chosen = smallest if threshold is None else threshold
    most = bounds.fewest_remaining_neighbors(degree)
    if not smallest <= chosen <= most:
        reasons.append(f"threshold {chosen} is outside the range that is safe and works with {degree} neighbours: "
                       f"{smallest} to {most}")  # fmt: skip
    margin = (
        f"a client's input is hidden while fewer than {2 * chosen - degree} of its {degree} neighbours are corrupt: "
        "a server that draws the graph honestly ensures it; one that does not can seat corrupt clients around a victim",
    )
    return _Choice(
        degree,
        chosen,
        None,
        (
            f"degree {degree}: the smallest that keeps the honest clients connected, and no client with "
            f"{chosen} corrupt neighbours, except with probability 2^-{SECURITY_BITS}",
            f"threshold {chosen}: at least that many of {degree} neighbours remain when {dropouts} clients vanish, "
            f"except with probability 2^-{CORRECTNESS_BITS}",
            *(margin if adversary is Adversary.MALICIOUS else ()),
        ),
    )


def _widths(num_clients: int, value_bits: int | None, max_value: int | None, max_weight: int) -> tuple[int, int]:
    """Return the bits of a weighted value, and of a sum of them."""
    largest = max_value if max_value is not None else (1 << (value_bits or 1)) - 1
    weighted_bits = (largest * max_weight).bit_length()
    return weighted_bits, required_ring_bits(num_clients, weighted_bits)


def impossible_for_any(dropout: float, corrupt: float, adversary: Adversary, graph: GraphKind) -> list[str]:
    """Return the reasons why a threat model has no plan for any number of clients, before the number is known."""
    if faults := _broken_model(dropout, corrupt, adversary, graph):
        return faults
    # If the complete graph has a plan for some number of clients, it has one for two or three.
    if dropout + _EPSILON < (1 / 2 if corrupt > 0 else 2 / 3) and corrupt + _EPSILON < 1 / 2:
        return []
    lies = adversary is not Adversary.HONEST_BUT_CURIOUS
    if not 1 - dropout > ((1 + corrupt) / 2 if lies else corrupt):
        return [f"with dropout {dropout} and corrupt {corrupt} too few honest clients remain, however many there are"]
    if graph is GraphKind.SPARSE:
        return []
    return [
        f"with dropout {dropout} and corrupt {corrupt} too few honest clients remain for the complete graph, however "
        "many there are: a sparse graph of enough clients allows it"
    ]


def _broken_numbers(
    num_clients: int,
    value_bits: int | None,
    max_value: int | None,
    max_weight: int,
    threshold: int | None,
    min_inputs: int,
) -> list[str]:
    reasons = []
    limits = {
        "num_clients": (num_clients, 2, MAX_CLIENTS),
        "value_bits": (value_bits, 1, ring.MAX_RING_BITS),
        "max_value": (max_value, 1, 2**ring.MAX_RING_BITS - 1),
        "max_weight": (max_weight, 1, 2**ring.MAX_RING_BITS - 1),
        "threshold": (threshold, 1, MAX_CLIENTS),
        "min_inputs": (min_inputs, 1, MAX_CLIENTS),
    }
    optional = {"value_bits", "max_value", "threshold"}
    for name, (value, least, most) in limits.items():
        if value is None and name in optional:
            continue
        if type(value) is not int:
            reasons.append(f"{name} must be an int, not {type(value).__name__}")
        elif not least <= value <= most:
            why = " (the sum of a single client's input is that input)" if name == "num_clients" and value == 1 else ""
            reasons.append(f"{name} is {value}, but must be between {least} and {most}{why}")
    if (value_bits is None) == (max_value is None):
        reasons.append("give either value_bits or max_value")
    return reasons


def _broken_length(vector_length: int) -> tuple[str, ...]:
    """Return the faults that `Parameters` finds in the vector length alone."""
    try:
        Parameters(num_clients=2, threshold=2, degree=1, vector_length=vector_length, value_bits=1, ring_bits=8)
    except PlanError as error:
        return error.reasons
    return ()


def _broken_model(dropout: float, corrupt: float, adversary: Adversary, graph: GraphKind) -> list[str]:
    reasons = []
    for name, fraction in (("dropout", dropout), ("corrupt", corrupt)):
        if not isinstance(fraction, int | float):
            reasons.append(f"{name} must be a number, not {type(fraction).__name__}")
        elif not 0 <= fraction < 1:
            reasons.append(f"{name} is {fraction}, but must be a fraction: at least 0 and below 1")
    for name, member, kind in (("adversary", adversary, Adversary), ("graph", graph, GraphKind)):
        if not isinstance(member, kind):
            reasons.append(f"{name} must be a secagg.{kind.__name__}, not {member!r}")
    return reasons
