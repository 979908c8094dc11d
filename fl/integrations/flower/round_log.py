"""The lines about a round in the server's log."""

import logging
from collections import Counter
from collections.abc import Iterator

from fl.aggregation.scales import Exceeded
from fl.formatting import percent
from fl.integrations.flower.session import RoundReport
from fl.integrations.flower.settings import SecAggSettings
from fl.integrations.records import Average
from transport.errors import printable

_LOG = logging.getLogger("flwr.secagg")

MOST_NOISE = 0.05
"""The rounding noise, as a fraction of the average change, above which the log warns."""

_MOST_NAMED = 5


def why_not(report: RoundReport) -> str:
    """Return why there is no average, with the most common reason of the nodes that left."""
    text, reasons = str(report.aborted), Counter(reason for _, reason in report.dropped.values())
    if report.measures:
        text = f"the first session, which measures the replies, failed: {text}"
    for reason, number in reasons.most_common(1):
        text += f"; {number} nodes left: {reason}"
    return text


def log_round(report: RoundReport, num_nodes: int, settings: SecAggSettings) -> None:
    """Log a round: the nodes in it, those that left, and the clipping. The numbers of single nodes are unknown here."""
    sessions = [report] if report.measuring is None else [report.measuring, report]
    for session in sessions:
        for node, (round_, reason) in session.dropped.items():
            where = "" if session is report else " of the session that measures"
            _LOG.info("secagg: node %d left in %s%s: %s", node, round_.value, where, reason)
    if report.aborted is not None:
        _LOG.error("secagg: this round has no result, so the model stays as it was: %s", why_not(report))
        return
    _LOG.info(
        "secagg: the average of %d of %d nodes, %d examples, in %.2f s (protocol: %.1f kB up, %.1f kB down); rounding "
        "noise is %.2g%% of the average change", len(report.included), num_nodes, report.total_weight,
        sum(sum(session.seconds.values()) for session in sessions), sum(one.bytes_up for one in sessions) / 1e3,
        sum(one.bytes_down for one in sessions) / 1e3, 100 * report.noise,
    )  # fmt: skip
    for name, weight in report.partial_metrics.items():
        _LOG.warning(
            "secagg: metric %s is averaged over %d of %d examples: the other clients have no finite number within "
            "`metric_bound` for it", printable(repr(name)), weight, report.total_weight,
        )  # fmt: skip
    is_fixed = settings.clip is not None
    for line in _of_clipped(report):
        # Bounds that follow the changes grow in the next round, if that does not hurt the others.
        _LOG.log(logging.WARNING if is_fixed else logging.INFO, "secagg: %s", line)
    if report.cut_weights is not None:
        _LOG.warning("secagg: weights: %s; they count as the bound", _of_exceeded(report.cut_weights, report))
    if report.noise > MOST_NOISE:
        fixed = [name for name in ("clip", "max_examples") if getattr(settings, name) is not None]
        remedy = f"leave out {' and '.join(f'`{name}`' for name in fixed)}, or " if fixed else ""
        _LOG.warning(
            "secagg: rounding noise is %.2g%% of the average change: %sgive more `value_bits` than %d",
            100 * report.noise, remedy, settings.value_bits_for(num_nodes),
        )  # fmt: skip


def _of_clipped(report: RoundReport) -> Iterator[str]:
    """Yield the arrays that were clipped, each with a bound that would suffice."""
    if report.clipped > 0:
        yield f"{percent(report.clipped)} of the elements were clipped to the bounds of their arrays"
    for name, exceeded in list(report.exceeded.items())[:_MOST_NAMED]:
        yield f"array {printable(repr(name))}: {_of_exceeded(exceeded, report)}"
    if len(report.exceeded) > _MOST_NAMED:
        yield f"and {len(report.exceeded) - _MOST_NAMED} more arrays"


def _of_exceeded(exceeded: Exceeded, report: RoundReport) -> str:
    remedy = "far more is needed" if exceeded.enough is None else f"{exceeded.enough:g} would do"
    return f"{exceeded.clients} of {len(report.included)} clients exceed {exceeded.bound:g}; {remedy}"


def warn_of_not_sent(average: Average, clip: float | None) -> None:
    """Warn of arrays that were not sent: often a renamed model, whose elements are larger than its changes."""
    names = ", ".join(f"{name!r} of record {record!r}" for record, name in average.not_sent[:_MOST_NAMED])
    more = f" and {len(average.not_sent) - _MOST_NAMED} more" if len(average.not_sent) > _MOST_NAMED else ""
    bound = "with one bound for all of them" if clip is None else f"clipped to +-{clip:g}"
    _LOG.warning(
        "secagg: clients reply with arrays that were not sent to them, so these travel as they are and not as "
        "changes, %s: %s%s. If they are the model, give them the names that were sent",
        bound, printable(names, 400), more,
    )  # fmt: skip
