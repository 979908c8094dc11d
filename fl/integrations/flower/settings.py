"""The settings of the server's side; each value is checked here, before anything is sent."""

import math
import os
from dataclasses import dataclass, fields
from typing import Any, Literal

import secagg
from fl.aggregation.planning import AdversaryName, GraphName, name_of, name_problems, plan_session, widest_graph
from fl.aggregation.scales import Scales, ScaleTracker
from fl.aggregation.session_policy import SessionPolicy, usual_policy
from fl.errors import ConfigError
from fl.integrations.private_rounds import PrivateRounds, check_budget
from fl.integrations.records import RecordEncoding
from fl.privacy.budget import Budget
from secagg import Adversary, GraphKind
from secagg.planner import impossible_for_any


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAggSettings:
    """The settings of the aggregation.

    Attributes:
        threshold: a larger threshold than the threat model asks for.
        dropout, corrupt, adversary, graph: the threat model; see `secagg.plan`. Names or members of the enums; the
            graph ``auto`` stands for the cheapest that is safe for it and that the nodes take, in each session.
        policy: the nodes' rules for a session; by default those of `secagg_mod`. A session that they would decline is
            refused here, and the threshold is large enough for their ``min_inputs``.
        clip: each element of a client's change of an array is clipped to [-clip, clip], and so is each element of an
            array that clients were not sent. By default each array has its own bound, which follows the clients'
            changes from round to round.
        value_bits: bits that an element is rounded to; by default as many as fit sums into 32 bits, at most 24.
        max_examples: a bound on each client's weight: a larger weight counts as the bound. Rounding is finest if the
            bound is close to the largest weight; by default it follows the clients' weights. With a fixed ``clip`` and
            a fixed ``max_examples`` no session measures.
        max_metrics: the most numbers that a client may report as metrics.
        metric_bound: metrics must be in [-metric_bound, metric_bound].
        weighted_by: the metric that weighs a client's reply; by default the strategy's, else ``num-examples``.
        capacity: the most array elements of a reply, including the floats that were sent to the clients; by default
            twice the number of those. After a session that measures, vectors have only as many as it needed.
        protect_evaluate: True if evaluation replies too give averages only; the clients then need the same setting.
        round_timeout: seconds for each round without training; the strategy sets the time of the round in which clients
            train.
        poll_seconds: seconds between two polls for replies.
        on_abort: after a round without a sum, ``skip`` gives the strategy no reply, so that it keeps its model, and
            logs an error; ``raise`` raises `RoundAbortedError`.
        max_failed_rounds: with ``skip``, the most rounds without a sum in a row; one more raises `RoundAbortedError`,
            and so does a training without any sum.
        workers: cores for the recovery of the masks; by default all.
        privacy: the budget of a training with differential privacy: nodes clip their change of all arrays together to
            its L2 norm, add noise, and count once each; metrics do not travel.
        ledger: with ``privacy``, the file of what the training has spent; a file that exists goes on.

    Raises:
        ConfigError: values are out of range; the text names them all.
    """

    threshold: int | None = None
    dropout: float = 0.0
    corrupt: float = 0.0
    adversary: Adversary | AdversaryName = Adversary.HONEST_BUT_CURIOUS
    graph: GraphKind | GraphName = "auto"
    policy: SessionPolicy | None = None
    clip: float | None = None
    value_bits: int | None = None
    max_examples: int | None = None
    max_metrics: int = 16
    metric_bound: float = 2.0**20
    weighted_by: str | None = None
    capacity: int | None = None
    protect_evaluate: bool = False
    round_timeout: float = 120.0
    poll_seconds: float = 0.1
    on_abort: Literal["skip", "raise"] = "skip"
    max_failed_rounds: int = 2
    workers: int | None = None
    privacy: Budget | None = None
    ledger: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        problems = []
        for name in ("round_timeout", "poll_seconds"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                problems.append(f"{name} must be a number of seconds above 0, not {value!r}")
        if self.on_abort not in ("skip", "raise"):
            problems.append(f"on_abort must be 'skip' or 'raise', not {self.on_abort!r}")
        if type(self.max_failed_rounds) is not int or self.max_failed_rounds < 0:
            problems.append(f"max_failed_rounds must be a whole number of at least 0, not {self.max_failed_rounds!r}")
        for name in ("threshold", "capacity", "workers"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                problems.append(f"{name} must be a positive int, not {value!r}")
        try:
            self.encoding(sizes=(1,), num_clients=2, scales=None, weight="num-examples")
            self.tracker(1, 2)
        except (ConfigError, TypeError) as error:
            problems.append(str(error))
        unknown = name_problems(self.graph, self.adversary)
        if unknown:
            problems += unknown
        else:
            object.__setattr__(self, "adversary", self.mode)
            widest = widest_graph(self.graph, self.mode)
            problems += impossible_for_any(self.dropout, self.corrupt, self.mode, widest)
        if not isinstance(self.policy, SessionPolicy | None):
            problems.append(f"policy must be a secagg.SessionPolicy, not {self.policy!r}")
        elif name_of(self.graph) == GraphKind.SPARSE.value and self.nodes_policy.graph is not GraphKind.SPARSE:
            problems.append(
                "nodes that do not trust the server decline sparse graphs: give each secagg_mod(graph='sparse'), and "
                "SecAggGrid(policy=SessionPolicy(graph=GraphKind.SPARSE))"
            )
        problems += self._problems_of_privacy()
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems_of_privacy(self) -> list[str]:
        if self.privacy is None:
            return [] if self.ledger is None else ["a ledger is for a training with `privacy`"]
        problems = check_budget(self.privacy)
        if self.protect_evaluate:
            problems.append("protect_evaluate gives exact averages, which a training with `privacy` must not")
        if name_of(self.graph) == GraphKind.SPARSE.value:
            problems.append("private sums need the complete graph")
        fixed = [name for name in ("clip", "value_bits", "max_examples", "capacity") if getattr(self, name) is not None]
        if fixed:
            problems.append(f"{', '.join(fixed)}: a training with `privacy` plans these numbers itself")
        return problems

    def private_rounds(self) -> PrivateRounds | None:
        """Open the ledger of a training with privacy; None without. ConfigError if it cannot be used."""
        if self.privacy is None:
            return None
        model = {
            "dropout": self.dropout,
            "corrupt": self.corrupt,
            "adversary": self.mode,
            "threshold": self.threshold,
            "min_inputs": self.nodes_policy.min_inputs,
        }
        return PrivateRounds.of(self.privacy, self.ledger, model)

    @classmethod
    def of(cls, options: dict[str, Any]) -> "SecAggSettings":
        """Return settings from names and values; raise ConfigError for an unknown name."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(options.keys() - known):
            raise ConfigError(f"unknown settings: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return cls(**options)

    @property
    def mode(self) -> Adversary:
        """Return the adversary."""
        return Adversary(self.adversary)

    @property
    def nodes_policy(self) -> SessionPolicy:
        """Return the nodes' rules for a session."""
        return self.policy or usual_policy(has_identity=self.mode is Adversary.MALICIOUS)

    def encoding(
        self, *, sizes: tuple[int, ...], num_clients: int, scales: Scales | None, weight: str
    ) -> RecordEncoding:
        """Return the encoding of replies to messages with float arrays of these sizes."""
        return RecordEncoding(
            sizes=sizes,
            num_clients=num_clients,
            scales=scales,
            weight=weight,
            value_bits=self.value_bits_for(num_clients),
            max_metrics=self.max_metrics,
            metric_bound=float(self.metric_bound),
        )

    def tracker(self, num_arrays: int, num_clients: int) -> ScaleTracker:
        """Return a tracker that updates the bounds of a set of arrays from round to round."""
        clip = None if self.clip is None else float(self.clip)
        return ScaleTracker(num_arrays, self.value_bits_for(num_clients), clip=clip, max_weight=self.max_examples)

    def value_bits_for(self, num_clients: int) -> int:
        """Return the bits that an element is rounded to, in rounds of this many nodes."""
        # A ring above 32 bits costs twice the time.
        return min(24, 32 - (num_clients - 1).bit_length()) if self.value_bits is None else self.value_bits

    def plan(self, num_clients: int, *, vector_length: int, value_bits: int, threshold: int | None) -> secagg.Plan:
        """Return the session's plan; raise PlanError if it is impossible, PolicyError if the nodes would decline it."""
        declined = self.nodes_policy.graph is GraphKind.COMPLETE and self.graph == "auto"
        plan = plan_session(
            num_clients=num_clients,
            vector_length=vector_length,
            value_bits=value_bits,
            dropout=self.dropout,
            corrupt=self.corrupt,
            adversary=self.mode,
            graph=GraphKind.COMPLETE if declined else self.graph,
            threshold=threshold,
            min_inputs=self.nodes_policy.min_inputs,
        )
        self.nodes_policy.check(plan.parameters)
        return plan
