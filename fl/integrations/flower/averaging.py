"""The one reply that a strategy sees, and the checks on the strategy's use of it.

Flower's average multiplies each array by a weight, which turns BatchNorm's counters and masks into floats; momentum and
noise then change them.  The strategy's result is the next round's model and the final one, so such arrays get their
type and value back there, by a wrapper of the strategy object's own `aggregate_train`.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from fl.integrations.flower._flwr import (
    CLIENTS_DISCREPANCY_WARNING,
    ArrayRecord,
    Message,
    RecordDict,
    strategies,
)
from fl.integrations.flower.content import content_of
from fl.integrations.flower.errors import StrategyRefusedError
from fl.integrations.records import Average

_LOG = logging.getLogger("flwr.secagg")


class AverageReply(Message):
    """The average, as a reply of its first included node.

    Args:
        average: the average of the clients' replies.
        num_clients: the number of clients in the average.
        reply_to: the message that was sent to this node.

    Attributes:
        num_clients: as above.
        was_averaged: True if Flower's `FedAvg.aggregate_train`, which all averaging strategies call, has read the
            content.
    """

    def __init__(self, average: Average, num_clients: int, reply_to: Message) -> None:
        self.num_clients = num_clients
        self.was_averaged = False
        super().__init__(content_of(average), reply_to=reply_to)
        own = self.content
        self._kept = {name: own[record][name] for record, name in average.kept}

    @property
    def content(self) -> RecordDict:
        """Return the content of the message."""
        self.was_averaged = self.was_averaged or _is_averaging()
        return super().content

    def restored(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return a strategy's result with arrays that have no average as they were sent to the clients."""
        kept = {name: array for name, array in self._kept.items() if name in arrays}
        return ArrayRecord({name: kept.get(name, array) for name, array in arrays.items()}) if kept else arrays


def watch(strategy: Any, *, vouched: bool) -> None:
    """Wrap ``strategy.aggregate_train``: call it, restore arrays that have no average, and check its use of the reply.

    Args:
        strategy: the strategy object; its class is not changed.
        vouched: True if its author declares that its own code averages.
    """
    own = strategy.aggregate_train
    if not (isinstance(own, partial) and own.func is _aggregate):
        strategy.aggregate_train = partial(_aggregate, own, vouched)


def _aggregate(own: Callable[..., Any], vouched: bool, server_round: int, replies: Iterable[Message]) -> Any:
    listed = list(replies)
    average = next((reply for reply in listed if isinstance(reply, AverageReply)), None)
    if average is None:
        return own(server_round, listed)
    with _one_reply_is_many(average, own):
        result = own(server_round, listed)
    if not (vouched or average.was_averaged):
        raise StrategyRefusedError(
            f"{_name(own)}.aggregate_train did not pass secure aggregation's reply, the average of all, to the "
            "aggregation of the strategy that it inherits from. If it uses replies only to take their weighted mean, "
            "say so by `secagg_averages = True` in the class; if not, it cannot work here"
        )
    if isinstance(result, tuple) and result and isinstance(result[0], ArrayRecord):
        return (average.restored(result[0]), *result[1:])
    return result


@contextmanager
def _one_reply_is_many(average: AverageReply, own: Callable[..., Any]) -> Iterator[None]:
    """Compare the number of clients, not of replies, with the number that Flower's noise is made for."""
    expected = getattr(getattr(own, "__self__", None), "num_sampled_clients", None)
    if expected is None:
        yield
        return
    log = logging.getLogger("flwr")
    log.addFilter(_is_no_discrepancy)
    try:
        yield
    finally:
        log.removeFilter(_is_no_discrepancy)
    if average.num_clients != expected:
        _LOG.warning(
            "secagg: %s makes its noise for num_sampled_clients=%d, but the average is of %d clients",
            _name(own), expected, average.num_clients,
        )  # fmt: skip


def _is_no_discrepancy(record: logging.LogRecord) -> bool:
    return record.msg != CLIENTS_DISCREPANCY_WARNING


def _name(own: Callable[..., Any]) -> str:
    return type(getattr(own, "__self__", own)).__name__


def _is_averaging() -> bool:
    """Return whether `FedAvg.aggregate_train` called this, directly or not."""
    code = getattr(inspect.unwrap(strategies.FedAvg.aggregate_train), "__code__", None)
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
