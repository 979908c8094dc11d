"""The plans of a run's sessions, and how updates are encoded in them: made here alone, for all who need them."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import secagg
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange
from secagg import Adversary, GraphChoice, GraphKind, PlanError
from secagg.graph_choice import sparse_threat

GraphName = Literal["auto", "complete", "sparse"]
"""A graph's name in all settings; ``auto`` stands for the one that `secagg.cheapest_graph` chooses."""

AdversaryName = Literal["honest-but-curious", "semi-malicious", "malicious"]
"""An adversary's name in all settings."""

GRAPHS: tuple[str, ...] = get_args(GraphName)
ADVERSARIES: tuple[str, ...] = get_args(AdversaryName)


def name_of(value: Any) -> Any:
    """Return the name of a member of `GraphKind` or `Adversary`; other values as they are."""
    return value.value if isinstance(value, GraphKind | Adversary) else value


def name_problems(graph: object, adversary: object = None) -> list[str]:
    """Return one message for each value that is no `GraphName`, no `AdversaryName`, none of the enums' and not None."""
    return [
        f"unknown {what} {value!r}; known are {', '.join(known)}"
        for what, value, known in (("graph", graph, GRAPHS), ("adversary", adversary, ADVERSARIES))
        if value is not None and name_of(value) not in known
    ]


def widest_graph(graph: str | GraphKind, adversary: Adversary) -> GraphKind:
    """Return the graph itself; for ``auto`` the sparse one where it can stand for that, else the complete one."""
    if graph != "auto":
        return GraphKind(graph)
    return GraphKind.SPARSE if adversary is Adversary.HONEST_BUT_CURIOUS else GraphKind.COMPLETE


def plan_session(*, graph: str | GraphKind, adversary: str | Adversary, **numbers: Any) -> secagg.Plan:
    """Return the plan of one session; with the graph ``auto``, its first reason says why the graph was chosen.

    A sparse graph is planned for at least 5% dropouts and, if there is such a plan, 5% corrupt clients: it has no spare
    ones.

    Args:
        graph, adversary: a `GraphName` and an `AdversaryName`, or members of the enums.
        numbers: the other arguments of `secagg.plan`.

    Raises:
        PlanError: a name is unknown, or there is no plan; the error names every reason.
    """
    problems = name_problems(graph, adversary)
    mode = Adversary.HONEST_BUT_CURIOUS if problems else Adversary(adversary)
    kind, choice = GraphKind.COMPLETE, None
    threat = {name: numbers[name] for name in _THREAT if name in numbers}
    if not problems and graph == "auto":
        choice = secagg.cheapest_graph(adversary=mode, **threat)
        kind, numbers["dropout"], numbers["corrupt"] = choice.graph, choice.dropout, choice.corrupt
    elif not problems:
        kind = GraphKind(graph)
        if kind is GraphKind.SPARSE:
            numbers["dropout"], numbers["corrupt"] = sparse_threat(**{"corrupt": 0.0, **threat}, adversary=mode)
    try:
        plan = secagg.plan(**numbers, adversary=mode, graph=kind)
    except PlanError as error:
        raise PlanError((*problems, *error.reasons)) from None
    if problems:
        raise PlanError(tuple(problems))
    return plan if choice is None else choice.explained(plan)


_THREAT = ("num_clients", "dropout", "corrupt", "threshold", "min_inputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlans:
    """What the sessions of a run have in common; each number of clients is planned once.

    Attributes:
        sizes: elements of each tensor of an update.
        value_bits: that elements are rounded to.
        corrupt, adversary, graph, threshold, min_inputs: as for `plan_session`.
        choice: the reason for the graph, if it was chosen.
        goal: with this many inputs a session goes on: clients beyond them count as vanished. None: with all of them.
        dropout: the fraction of the other clients that is expected to vanish.
        figures: the ranges of the loss and of each metric that clients report.
    """

    sizes: tuple[int, ...]
    value_bits: int
    dropout: float = 0.0
    corrupt: float = 0.0
    adversary: Adversary = Adversary.HONEST_BUT_CURIOUS
    graph: GraphKind = GraphKind.COMPLETE
    threshold: int | None = None
    min_inputs: int = 2
    choice: GraphChoice | None = None
    goal: int | None = None
    figures: tuple[FigureRange, ...] = CLASSIFICATION_FIGURES
    _made: dict[int, secagg.Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def encoding(self, num_clients: int, scales: Scales | None) -> UpdateEncoding:
        """Return the encoding of updates for this number of clients; without bounds it measures them."""
        return UpdateEncoding(
            sizes=self.sizes,
            num_clients=num_clients,
            value_bits=self.value_bits,
            scales=scales,
            figures=self.figures,
        )

    def plan(self, num_clients: int) -> secagg.Plan:
        """Return the plan of sessions with this number of clients.

        Raises:
            secagg.PlanError: naming every reason why there is none.
        """
        if num_clients not in self._made:
            # Thresholds and ring do not depend on the bounds, and the length hardly.
            length = UpdateEncoding.for_plan(self.sizes, num_clients, self.value_bits, self.figures).vector_length
            self._made[num_clients] = self.plan_of(num_clients, length, self.value_bits)
        return self._made[num_clients]

    def explained(self, num_clients: int) -> "SessionPlans":
        """Return the same plans with the reason for their graph, if it is the cheapest one for this many clients."""
        choice = self.cheapest(num_clients)
        return replace(self, choice=choice if choice.graph is self.graph else None)

    def cheapest(self, num_clients: int) -> GraphChoice:
        """Return the graph that is cheapest for sessions with this number of clients."""
        return secagg.cheapest_graph(
            num_clients=num_clients,
            dropout=self._dropout(num_clients),
            corrupt=self.corrupt,
            adversary=self.adversary,
            threshold=self.threshold,
            min_inputs=self.min_inputs,
        )

    def _dropout(self, num_clients: int) -> float:
        spare = 0.0 if self.goal is None or num_clients <= self.goal else (num_clients - self.goal) / num_clients
        return spare + (1 - spare) * self.dropout

    def plan_of(self, num_clients: int, vector_length: int, value_bits: int) -> secagg.Plan:
        """Return the plan of a session that sums other vectors than updates; PlanError as above."""
        plan = plan_session(
            num_clients=num_clients,
            vector_length=vector_length,
            value_bits=value_bits,
            dropout=self._dropout(num_clients),
            corrupt=self.corrupt,
            adversary=self.adversary,
            graph=self.graph,
            threshold=self.threshold,
            min_inputs=self.min_inputs,
        )
        return plan if self.choice is None else self.choice.explained(plan)

    def parameters(self, encoding: UpdateEncoding) -> secagg.Parameters:
        """The parameters of a session whose inputs have this encoding; PlanError as above."""
        return replace(self.plan(encoding.num_clients).parameters, vector_length=encoding.vector_length)
