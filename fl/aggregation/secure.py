"""Secure aggregation of the clients' updates to their mean: the server sees only masked vectors and their sum."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, TypeAlias

import numpy as np

import secagg
from fl.aggregation.api import RoundRequest, RoundResult, TimedTraining
from fl.aggregation.counters import IntegerVector
from fl.aggregation.encoding import ClientUpdate, UndecodableSumError, UpdateEncoding
from fl.aggregation.phases import PhaseCost, phase_costs
from fl.aggregation.planning import SessionPlans
from fl.aggregation.scales import Ranges, ScaleTracker
from fl.errors import FLError
from secagg import ClientId, Identity, PlanError, Round
from transport import DeferredInput, InputWithheldError, KeyedInput, run_session

# Number of clients measured in a simulated round. Their updates stay in memory until they are sent, so fewer clients
# are measured if the updates would exceed the bytes below, but at least three.
_MOST_MEASURED, _FEWEST_MEASURED = 20, 3
_MOST_KEPT_BYTES = 512 << 20


Encode: TypeAlias = Callable[[ClientUpdate, np.random.Generator], IntegerVector | KeyedInput]
"""A function that encodes a client's update. It can be pickled: workers call it too."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUpdate(DeferredInput):
    """A client's update that its worker encodes, so that encoding is done on all cores.

    Attributes:
        update: the update.
        encode: the encoding.
        seed: seed of the rounding.
    """

    update: ClientUpdate
    encode: Encode
    seed: tuple[int, ClientId]

    def __call__(self) -> IntegerVector | KeyedInput:
        """Return the encoded update; InputWithheldError if it cannot be encoded."""
        try:
            return self.encode(self.update, np.random.default_rng(self.seed))
        except FLError as error:
            raise InputWithheldError(str(error)) from error


class SessionAggregator:
    """What aggregators have in common that sum encoded updates in sessions of the protocol.

    Args:
        verify: keep the clients' updates, encode them again, and compare the secure sum with their sum, element by
            element. For simulations only: it needs all updates in memory, and a real server does not have them.
        identities: in malicious mode, the clients' identities.

    Attributes:
        plan: the plan of a session with all clients of a round.
    """

    name = "secure"
    plan: secagg.Plan

    def __init__(self, *, verify: bool, identities: Mapping[ClientId, Identity] | None) -> None:
        self._verify = verify
        self.identities = identities

    def _session(
        self, request: RoundRequest, train: TimedTraining, encode: Encode, params: secagg.Parameters
    ) -> tuple[secagg.Completed | secagg.Aborted, RoundResult]:
        """Run one session with this encoding; return its outcome, not yet decoded, and its cost."""
        kept: dict[ClientId, EncodedUpdate] = {}

        def make_input(client_id: ClientId) -> EncodedUpdate:
            made = train(client_id, lambda update: EncodedUpdate(update, encode, (request.seed, client_id)))
            if self._verify:
                kept[client_id] = made
            return made

        report = run_session(
            params,
            make_input,
            client_ids=request.client_ids,
            context=request.context,
            received_context=request.received_context,
            faults=request.faults,
            seed=request.seed,
            identities=self.identities,
            observer=request.observer,
            announce=None if request.announce is None else train.announce,
            may_be_early=train.may_be_early,
            pool=request.workers,
        )
        for client_id, client in report.clients.items():
            if isinstance(client.error, InputWithheldError):
                train.refused.setdefault(client_id, str(client.error))
        outcome = report.outcome
        difference: int | None = None
        if isinstance(outcome, secagg.Completed) and self._verify:
            difference = _ring_difference(outcome.sum, (kept[i]() for i in outcome.included), params)
        return outcome, RoundResult(
            aggregate=None,
            included=(),
            dropped={client_id: drop.round for client_id, drop in report.dropped.items()},
            trained=train.trained,
            refused=train.refused,
            phases=phase_costs(report, params),
            bytes_up=report.bytes_up,
            bytes_down=report.bytes_down,
            training_seconds=train.seconds,
            server_seconds=sum(report.server_seconds.values()),
            client_seconds=median(sum(client.seconds.values()) for client in report.clients.values()),
            ring_difference=difference,
        )


class SecureAggregator(SessionAggregator):
    """Aggregation by the protocol: the server sees only masked vectors and their sum.

    If the bounds follow the updates, the first round begins with a session that measures: some of its clients are
    trained, and only the ranges of their updates are summed. If the measuring session fails, the round is aborted and
    the next round measures again.

    Args:
        plans: plans of its sessions.
        num_clients: number of clients in a round.
        tracker: the bounds; the aggregator updates them after each round.
        verify, identities: as for `SessionAggregator`.

    Raises:
        PlanError: sessions with this number of clients cannot work.
    """

    def __init__(
        self,
        plans: SessionPlans,
        *,
        num_clients: int,
        tracker: ScaleTracker,
        verify: bool = False,
        identities: Mapping[ClientId, Identity] | None = None,
    ) -> None:
        super().__init__(verify=verify, identities=identities)
        self._plans = plans
        self._num_clients = num_clients
        self._tracker = tracker
        self.plan = plans.plan(num_clients)

    def aggregate(self, request: RoundRequest) -> RoundResult:
        started = time.perf_counter()
        train = TimedTraining(request)
        measured = RoundResult(aggregate=None, included=())
        if self._tracker.scales is None:
            ranges, measured = self._measure(request, train)
            if ranges is None:
                return replace(measured, seconds=time.perf_counter() - started)
            self._tracker.follow(ranges)
        encoding = self._plans.encoding(self._num_clients, self._tracker.scales)
        outcome, result = self._session(request, train, encoding.encode, self._plans.parameters(encoding))
        result = with_outcome(result, outcome, encoding, self._tracker)
        return replace(both_sessions(measured, result), seconds=time.perf_counter() - started)

    def _measure(self, request: RoundRequest, train: TimedTraining) -> tuple[Ranges | None, RoundResult]:
        """Return the ranges of the updates of some of the round's clients, and the cost; the updates are kept."""
        client_ids = request.client_ids
        few = min(_MOST_MEASURED, max(_FEWEST_MEASURED, _MOST_KEPT_BYTES // (4 * sum(self._plans.sizes))))
        if few < len(client_ids):
            try:
                self._plans.plan(few)
                client_ids = _some_with_their_share_of_faults(request, few)
            except PlanError:
                # With fractions that need many clients, the small session has no plan: measure all clients.
                pass
        encoding = self._plans.encoding(len(client_ids), None)
        train.keeps = True
        chosen = replace(request, client_ids=client_ids)
        outcome, result = self._session(chosen, train, encoding.encode, self._plans.parameters(encoding))
        train.keeps = False
        ranges, aborted = measured_ranges(outcome, encoding)
        return ranges, replace(result, aborted=aborted)


def with_outcome(
    result: RoundResult, outcome: secagg.Completed | secagg.Aborted, encoding: UpdateEncoding, tracker: ScaleTracker
) -> RoundResult:
    """Return the result with the session's mean update, or the reason why it has none; update the bounds."""
    if isinstance(outcome, secagg.Aborted):
        return replace(result, aborted=str(outcome))
    try:
        aggregate = encoding.decode(outcome.sum, len(outcome.included))
    except UndecodableSumError as error:
        return replace(result, aborted=str(error))
    assert aggregate.ranges is not None  # noqa: S101 - the encoding has them
    exceeded = tracker.exceeded(aggregate.ranges)
    tracker.follow(aggregate.ranges, aggregate.num_examples)
    return replace(result, aggregate=aggregate, included=outcome.included, exceeded=tuple(exceeded))


def measured_ranges(
    outcome: secagg.Completed | secagg.Aborted, encoding: UpdateEncoding
) -> tuple[Ranges | None, str | None]:
    """Return the ranges from a measuring session, or the reason why the round is aborted."""
    try:
        if isinstance(outcome, secagg.Completed):
            return encoding.decode_ranges(outcome.sum, len(outcome.included)), None
        reason = str(outcome)
    except UndecodableSumError as error:
        reason = str(error)
    return None, f"the session that measures the updates' ranges failed: {reason}"


def both_sessions(measured: RoundResult, result: RoundResult) -> RoundResult:
    """Return a round's result plus the cost of its measuring session; training counts in both."""
    phases = {
        round_: PhaseCost.total([costs[round_] for costs in (measured.phases, result.phases) if round_ in costs])
        for round_ in Round
        if round_ in measured.phases or round_ in result.phases
    }
    differences = [one for one in (measured.ring_difference, result.ring_difference) if one is not None]
    return replace(
        result,
        phases=phases,
        bytes_up=measured.bytes_up + result.bytes_up,
        bytes_down=measured.bytes_down + result.bytes_down,
        server_seconds=measured.server_seconds + result.server_seconds,
        client_seconds=measured.client_seconds + result.client_seconds,
        ring_difference=max(differences, default=None),
    )


def _some_with_their_share_of_faults(request: RoundRequest, count: int) -> tuple[ClientId, ...]:
    """Return ``few`` of the round's clients, with the same fraction of faulty clients as in the round."""
    with_faults = {client_id for client_id, _, _ in request.faults.faults}
    faulty = [client_id for client_id in request.client_ids if client_id in with_faults]
    others = [client_id for client_id in request.client_ids if client_id not in with_faults]
    share = len(faulty) * count // len(request.client_ids)
    return tuple(sorted(faulty[:share] + others[: count - share]))


def _ring_difference(secure: IntegerVector, encoded: Iterable[Any], params: secagg.Parameters) -> int:
    """Return the largest distance between the two sums in the ring; 0 if they are equal."""
    plain = np.zeros(params.vector_length, dtype=np.uint64)
    for vector in encoded:
        plain += vector.astype(np.uint64)
    mask = np.uint64(params.modulus - 1)
    forward = (secure.astype(np.uint64) - plain) & mask
    backward = (plain - secure.astype(np.uint64)) & mask
    return int(np.minimum(forward, backward).max())
