"""The plans of a run's sessions, and how updates are encoded in them: made here alone, for all who need them."""

from dataclasses import dataclass, field, replace

import secagg
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange
from secagg import Adversary, GraphKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlans:
    """What the sessions of a run have in common; each number of clients is planned once.

    Attributes:
        sizes: elements of each tensor of an update.
        value_bits: that elements are rounded to.
        corrupt, adversary, graph, threshold, min_inputs: as for `secagg.plan`.
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
            spare = 0.0 if self.goal is None or num_clients <= self.goal else (num_clients - self.goal) / num_clients
            self._made[num_clients] = secagg.plan(
                num_clients=num_clients,
                # Thresholds and ring do not depend on the bounds, and the length hardly.
                vector_length=UpdateEncoding.for_plan(
                    self.sizes, num_clients, self.value_bits, self.figures
                ).vector_length,
                value_bits=self.value_bits,
                dropout=spare + (1 - spare) * self.dropout,
                corrupt=self.corrupt,
                adversary=self.adversary,
                graph=self.graph,
                threshold=self.threshold,
                min_inputs=self.min_inputs,
            )
        return self._made[num_clients]

    def parameters(self, encoding: UpdateEncoding) -> secagg.Parameters:
        """The parameters of a session whose inputs have this encoding; PlanError as above."""
        return replace(self.plan(encoding.num_clients).parameters, vector_length=encoding.vector_length)
