"""A node's input: the app's reply as integers; if training fails, an input that looks the same and counts nothing."""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fl.aggregation.counters import IntegerVector
from fl.errors import FLError, PublicError
from fl.integrations.flower._flwr import Array, Context, Error, Message, RecordDict
from fl.integrations.flower.app_state import Trained, keep_layout, layout_before, own_state
from fl.integrations.flower.app_view import view_of
from fl.integrations.flower.content import ndarray_of, reply_of
from fl.integrations.flower.offer import RoundOffer
from fl.integrations.private_records import private_layout
from fl.integrations.record_layout import Arrays, Metric, RecordError, RecordLayout, layout_of
from fl.integrations.records import RecordEncoding, Reply
from transport.errors import printable

_LOG = logging.getLogger("flwr.secagg")

ClientAppCallable = Callable[[Message, Context], Message]


class AppFailedError(FLError):
    """An error that the app itself answered with; it goes to the server as it is."""

    def __init__(self, error: Error) -> None:
        super().__init__("the app answered with an error")
        self.error = error


@dataclass(frozen=True, slots=True, eq=False)
class OwnInput:
    """The input of a session, its public layout, and the result of the training that it is from."""

    vector: IntegerVector
    layout: RecordLayout
    trained: Trained


def own_input(
    offer: RoundOffer,
    own: RecordDict,
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    trained: Trained,
) -> OwnInput:
    """Return the node's input, and remember its layout.

    The server's model may be made so that training fails on single examples, so the server must not see whose training
    fails. A reply whose values cannot be sent has a layout, which is sent with an input that counts nothing. If the app
    raises, the layout is that of its last reply in this run.

    Args:
        offer: the session's offer.
        own: the app's records in the server's message.
        message, context, call_next: as Flower calls a mod.
        trained: the result of a training that waits for this session; if it is empty, the app is called.

    Raises:
        AppFailedError: the app answered with an error of its own.
        PublicError: the reply's structure has no average.
        Exception: what the app raised, if it has not replied in this run.
    """
    encoding, kind = offer.encoding, message.metadata.message_type
    # The app may empty the records that it is given.
    received = {name: dict(record) for name, record in own.array_records.items()}
    arrays = _ndarrays(received)
    encoding.check_sent(arrays)
    earlier, layout = own_state(context.state), None
    # Rounding protects nothing, so any seed will do.
    rng = np.random.default_rng()
    try:
        if not trained.reply:
            trained = _trained(own, message, context, call_next)
        reply = _with_metrics_in_bounds(reply_of(trained.reply), encoding)
        layout = layout_of(reply.arrays, reply.metrics, received=arrays, weight=encoding.weight)
        vector, layout = encoding.encode(reply, arrays, rng)
        _warn_of_weight(reply.metrics[layout.weight_record][encoding.weight], encoding, context)
    except (AppFailedError, PublicError):
        raise
    except Exception as error:
        layout = layout or _layout_before(context, kind, encoding, arrays)
        if layout is None:
            raise
        _LOG.error(
            "secagg: node %s has nothing to send, so its input counts nothing: %s: %s",
            context.node_id, type(error).__name__, printable(str(error)),
        )  # fmt: skip
        trained = Trained(earlier, trained.reply)
        vector, layout = encoding.encode(encoding.no_reply(layout, arrays), arrays, rng)
    keep_layout(context, kind, layout.to_bytes())
    return OwnInput(vector, layout, trained if offer.measures else Trained(trained.state))


def own_private_input(
    offer: RoundOffer, own: RecordDict, message: Message, context: Context, call_next: ClientAppCallable
) -> OwnInput:
    """Return the node's input of a private session: the change of the arrays that it was sent, with noise.

    If training fails, it is noise alone, which looks like any other input. The ledger must have been charged before.
    Arguments and errors as for `own_input`.
    """
    records = offer.private
    assert records is not None  # noqa: S101 - the caller saw it
    received = {name: dict(record) for name, record in own.array_records.items()}
    arrays = _ndarrays(received)
    records.check_sent(arrays)
    earlier, rng = own_state(context.state), np.random.default_rng()
    try:
        trained = _trained(own, message, context, call_next)
        reply = reply_of(trained.reply)
        if reply.arrays.keys() != arrays.keys() or any(
            reply.arrays[name].keys() != arrays[name].keys() for name in arrays
        ):
            _LOG.warning("secagg: a private session takes changes of the arrays that were sent, and no others")
        vector = records.encode(records.change(reply.arrays, arrays), rng, os.urandom)
    except (AppFailedError, PublicError):
        raise
    except Exception as error:  # noqa: BLE001 - the app may raise anything
        _LOG.error(
            "secagg: node %s has nothing to send, so its input is noise alone: %s: %s",
            context.node_id, type(error).__name__, printable(str(error)),
        )  # fmt: skip
        trained = Trained(earlier)
        vector = records.encode(None, rng, os.urandom)
    return OwnInput(vector, private_layout(arrays), Trained(trained.state))


def _layout_before(context: Context, kind: str, encoding: RecordEncoding, arrays: Arrays) -> RecordLayout | None:
    """Return the layout of the app's last reply in this run; None if there is none, or it is for another model."""
    data = layout_before(context, kind)
    if data is None:
        return None
    try:
        layout = RecordLayout.from_bytes(data)
        encoding.check_layout(layout, arrays)
    except RecordError:
        return None
    return layout


def _trained(own: RecordDict, message: Message, context: Context, call_next: ClientAppCallable) -> Trained:
    """Return the app's reply to the records ``own``, and its new state."""
    asked, seen = view_of(message, own, context)
    reply = call_next(asked, seen)
    if reply.has_error():
        raise AppFailedError(reply.error)
    if reply.content.config_records:
        _LOG.info("secagg: the reply's ConfigRecords are not sent, since they have no average")
    averaged = {**reply.content.array_records, **reply.content.metric_records}
    return Trained(seen.state, RecordDict(averaged))


def _warn_of_weight(weight: Metric, encoding: RecordEncoding, context: Context) -> None:
    if encoding.scales is not None and isinstance(weight, int | float) and weight > encoding.scales.max_weight:
        _LOG.warning(
            "secagg: node %s has %s %d, which counts as %d, the server's bound on weights",
            context.node_id, printable(encoding.weight), weight, encoding.scales.max_weight,
        )  # fmt: skip


def _with_metrics_in_bounds(reply: Reply, encoding: RecordEncoding) -> Reply:
    """Replace metrics that cannot be sent by NaN, so that they do not count, and the update is sent all the same."""
    bound = encoding.metric_bound

    def within(name: str, value: float) -> float:
        if name == encoding.weight or abs(value) <= bound:
            return value
        _LOG.warning("secagg: metric %r is not in [-%g, %g], so this node does not count for it", name, bound, bound)
        return math.nan

    metrics: dict[str, dict[str, Metric]] = {}
    for record, values in reply.metrics.items():
        metrics[record] = {
            name: within(name, value) if isinstance(value, int | float) else [within(name, one) for one in value]
            for name, value in values.items()
        }
    return Reply(reply.arrays, metrics)


def _ndarrays(received: dict[str, dict[str, Array]]) -> Arrays:
    return {
        record: {name: ndarray_of(record, name, array) for name, array in named.items()}
        for record, named in received.items()
    }
