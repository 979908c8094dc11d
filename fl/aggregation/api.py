"""Aggregation of the clients' updates to their mean: the interface, and plain aggregation."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgpack
import numpy as np

from fl.aggregation.encoding import MAX_VALUE_BITS, Aggregate, ClientUpdate, QuantizationError
from fl.aggregation.phases import PhaseCost
from fl.aggregation.scales import MAX_WEIGHT, Exceeded
from fl.aggregation.totals import TotalsEncoding
from fl.errors import EngineError, FLError
from fl.learning.figures import CLASSIFICATION_FIGURES, FigureRange, Total, ratio
from secagg import ClientId, Round
from transport import (
    Announcement,
    Direction,
    Fault,
    FaultSchedule,
    InputWithheldError,
    Observer,
    Workers,
    encode_frame,
)

_Encoded = TypeVar("_Encoded")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRequest:
    """The request for one round's aggregation.

    Attributes:
        client_ids: the clients sampled for this round.
        train: function that trains a client and returns its update; called once for each client that reaches that
            step. If it raises an FLError, the client sends nothing and the round goes on without it; an EngineError
            ends the round.
        context: the bytes to which the server binds the round: the digest of the model that it sends, and the number
            of the round.
        received_context: the same bytes from a client's view, with the model that it received. If they differ, the
            client cannot take part, so a server that sends different models to clients learns nothing. Default: the
            server's.
        faults: the planned faults of clients.
        seed: seed of rounding and of the network's latencies.
        observer: function that is told of progress.
        announce: function that is told in advance which clients will be asked, and in which order.
        may_be_early: whether a client may be asked for its update before it is due; by default all may.
        workers: the places that run the clients' part of the protocol, and recover masks; by default this process.
        number: the round's number, from 1; for the ledger of a private run.
    """

    client_ids: tuple[ClientId, ...]
    train: Callable[[ClientId], ClientUpdate]
    context: bytes
    faults: FaultSchedule
    seed: int
    received_context: Callable[[ClientId], bytes] | None = None
    observer: Observer | None = None
    announce: Announcement | None = None
    may_be_early: Callable[[ClientId], bool] | None = None
    workers: Workers | None = None
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """The result of one round's aggregation.

    Attributes:
        aggregate: the data that the server learned; None if the round was aborted.
        included: the clients whose updates are in the aggregate.
        dropped: the clients that vanished, with the round of the protocol. Updates of clients that vanished in
            Unmasking are included.
        trained: whether any client had an update to send.
        refused: the clients without an update, with the reason; only they and a simulation know it.
        aborted: the reason why there is no aggregate, or None.
        phases: the cost of each round of the protocol; empty for plain aggregation.
        bytes_up, bytes_down: bytes of all clients' messages, without the model's download.
        seconds: time of the whole round; training_seconds: time of the clients' training in it.
        server_seconds: time of the server's part of the protocol; client_seconds: median of the clients, without
            training.
        ring_difference: the largest difference between the secure sum and the plain sum of the same clients' encoded
            updates, as ring elements; None if it was not checked.
        exceeded: for each tensor, and last for the weights, whether clients were above the bound; empty without bounds
            or without an aggregate.
        epsilon: what the run has spent with this round, if it is private.
        l2_clip: the clip of the round, if it is private.
    """

    aggregate: Aggregate | None
    included: tuple[ClientId, ...]
    dropped: dict[ClientId, Round] = field(default_factory=dict)
    trained: bool = False
    refused: dict[ClientId, str] = field(default_factory=dict)
    phases: dict[Round, PhaseCost] = field(default_factory=dict)
    aborted: str | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    server_seconds: float = 0.0
    client_seconds: float = 0.0
    ring_difference: int | None = None
    exceeded: tuple[Exceeded | None, ...] = ()
    epsilon: float | None = None
    l2_clip: float | None = None


class Aggregator(Protocol):
    """A way to compute the weighted mean of the clients' updates."""

    @property
    def name(self) -> str:
        """Return `secure` or `plain`."""
        ...

    def aggregate(self, request: RoundRequest) -> RoundResult:
        """Run one round."""
        ...


class TimedTraining:
    """The request's training, with its time, and the reasons of the clients without an update.

    A client is trained once: while `keeps` is set, its update is kept and returned again at the next call.
    """

    def __init__(self, request: RoundRequest) -> None:
        self._request = request
        self._kept: dict[ClientId, ClientUpdate] = {}
        self._encoded: set[ClientId] = set()
        self.keeps = False
        self.seconds = 0.0
        self.refused: dict[ClientId, str] = {}

    @property
    def trained(self) -> bool:
        """Return whether any client had an update to send."""
        return not self._encoded <= self.refused.keys()

    def __call__(self, client_id: ClientId, encode: Callable[[ClientUpdate], _Encoded]) -> _Encoded:
        """Return the client's encoded update. Raises InputWithheldError if it has none to send."""
        if client_id in self.refused:
            raise InputWithheldError(self.refused[client_id])
        started = time.perf_counter()
        try:
            update = self._kept.pop(client_id, None)
            if update is None:
                update = self._request.train(client_id)
                self.seconds += time.perf_counter() - started
            if self.keeps:
                self._kept[client_id] = update
            encoded = encode(update)
        except EngineError:
            # Not this client's fault: without the client the round would not be the requested one.
            raise
        except FLError as error:
            self.refused[client_id] = str(error)
            raise InputWithheldError(str(error)) from error
        self._encoded.add(client_id)
        return encoded

    def announce(self, client_id: ClientId, due: float) -> None:
        """Announce the client for training in advance, unless it was trained already."""
        if self._request.announce is not None and client_id not in self._kept and client_id not in self.refused:
            self._request.announce(client_id, due)

    def may_be_early(self, client_id: ClientId) -> bool:
        """Return whether the client's update may be asked for before it is due."""
        asked = client_id not in self._kept and client_id not in self.refused
        return not asked or self._request.may_be_early is None or self._request.may_be_early(client_id)


class PlainAggregator:
    """Ordinary federated averaging (McMahan et al. 2017): float32 updates in the clear, one message per client.

    A client that vanishes before or during its masked input in the secure protocol also sends nothing here.

    Args:
        figures: the ranges of the loss and of each metric, as in the secure protocol.
    """

    name = "plain"

    def __init__(self, figures: tuple[FigureRange, ...] = CLASSIFICATION_FIGURES) -> None:
        self._figures = figures

    def aggregate(self, request: RoundRequest) -> RoundResult:
        started = time.perf_counter()
        train = TimedTraining(request)
        total: np.ndarray | None = None
        num_examples, loss_sum, bytes_up = 0, 0.0, 0
        metrics: dict[str, Total] = {one.name: (0, 0) for one in self._figures[1:]}
        included: list[ClientId] = []
        dropped: dict[ClientId, Round] = {}
        if request.announce is not None:
            for due, client_id in enumerate(request.client_ids):
                if not vanishes_before_its_update(request.faults, client_id):
                    request.announce(client_id, due)
        for client_id in request.client_ids:
            if round_ := vanishes_before_its_update(request.faults, client_id):
                dropped[client_id] = round_
                continue
            try:
                message = train(client_id, self._message)
            except InputWithheldError:
                dropped[client_id] = Round.MASKED_INPUT_COLLECTION
                continue
            bytes_up += len(encode_frame(message))
            examples, measured, loss, delta = msgpack.unpackb(message)
            weighted = np.frombuffer(delta, dtype="<f4").astype(np.float64) * examples
            total = weighted if total is None else np.add(total, weighted, out=total)
            num_examples, loss_sum = num_examples + examples, loss_sum + loss
            for name, (numerator, denominator) in zip(metrics, measured, strict=True):
                above, below = metrics[name]
                metrics[name] = above + numerator, below + denominator
            included.append(client_id)
            if request.observer is not None:
                request.observer(Round.MASKED_INPUT_COLLECTION, len(included), len(request.client_ids))
        aggregate = None
        if total is not None:
            aggregate = Aggregate(
                mean_delta=(total / num_examples).astype(np.float32),
                num_examples=num_examples,
                loss=loss_sum / num_examples,
                metrics={name: ratio(one) for name, one in metrics.items()},
                clipped=float("nan"),
            )
        return RoundResult(
            aggregate=aggregate,
            included=tuple(included),
            dropped=dropped,
            trained=train.trained,
            refused=train.refused,
            aborted=None if aggregate is not None else "no client sent its update",
            bytes_up=bytes_up,
            seconds=time.perf_counter() - started,
            training_seconds=train.seconds,
        )

    def _message(self, update: ClientUpdate) -> bytes:
        """Return the client's message in the clear; raise QuantizationError where the ring encoding would raise it."""
        if not (np.isfinite(update.delta).all() and np.isfinite(update.loss_sum)):
            raise QuantizationError("the update or its loss is not finite: lower the learning rate")
        TotalsEncoding(self._figures, MAX_WEIGHT, (), MAX_VALUE_BITS).encode(
            update.num_examples, update.loss_sum, update.metrics
        )
        message: bytes = msgpack.packb(
            [update.num_examples, update.metrics, update.loss_sum, update.delta.astype("<f4").tobytes()]
        )
        return message


def vanishes_before_its_update(faults: FaultSchedule, client_id: ClientId) -> Round | None:
    """Return the round of the protocol in which a client vanishes before its update is in the sum, or None."""
    for round_ in (Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION):
        if faults.of(client_id, round_, Direction.UP) in (Fault.VANISH, Fault.DISCONNECT):
            return round_
    return None
