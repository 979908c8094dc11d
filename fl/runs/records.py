"""The records of a run's rounds, one line of the run's metrics each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fl.config.run_config import ACCURACY, RunConfig
from fl.errors import AbortedError
from fl.formatting import percent
from fl.privacy.figures import WITHIN_CLIP
from secagg import ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """The figures of one round; one line of the run's metrics.

    Attributes:
        round: the round's number, from 1.
        aggregator: `secure` or `plain`.
        accuracy, loss, metrics: figures of the new global model on the test set; None and empty without one. Metrics
            are by name; accuracy is one of them, and None if the task does not measure it. A metric without a
            denominator is None.
        train_accuracy, train_loss, train_metrics: figures of the clients' models on their own examples, from the
            aggregated totals.
        num_examples: the number of examples on which the round's clients trained.
        sampled: the number of clients that were asked.
        included: the ids of the clients whose updates are in the mean.
        dropped: the number of clients that dropped out, by the round of the protocol in which they did.
        refused: clients without a valid update (with NaN in it, for example), and the reasons; by id as text, since
            JSON has no other keys. Only the clients know the reason: to a server, they dropped out.
        clipped: the fraction of update elements that were clipped.
        clipped_tensors: by tensor, the number of clients that exceeded its bound, the bound, and a bound that is large
            enough for all, as far as it is known (`fl.aggregation.scales.Exceeded`).
        clipped_weights: the same for the clients' weights.
        noise: the rounding noise divided by the mean update, both relative to each tensor's bound.
        bytes_up, bytes_down: bytes of all clients' protocol messages.
        model_bytes: bytes of the model, over all sampled clients that it was sent to.
        seconds: duration of the round without the test.
        training_seconds: time of all clients' training; with an engine that trains in other processes, the time that
            the round waited for them.
        server_seconds: time of the server's part of the protocol.
        client_seconds: time of the median client, without training.
        held_out_accuracy, held_out_loss, held_out_metrics: figures of the new global model on the examples that the
            round's clients hold out, from securely aggregated totals; None or empty without `RunConfig.holdout`, or if
            that session was aborted.
        held_out_examples: the number of examples in those totals.
        held_out_aborted: the reason if that session was aborted.
        phases: the cost of each round of the protocol (`fl.aggregation.phases.PhaseCost`), by its name.
        ring_difference: the difference of the secure sum and the plain sum of the same vectors; None if not checked.
        aborted: the reason if the model did not change.
        epsilon: what a private run has spent with this round, at its delta.
        l2_clip: in a private run, the L2 norm to which the round's updates were scaled down.
        within_clip: the share of clients whose update was within it, with noise. In private runs every client counts
            once in it and in all of `train_loss`, `train_metrics`, `held_out_loss` and `held_out_metrics`.
        stddevs: the standard deviations of the noise in these, by name: ``train_loss``, ``train_accuracy``,
            ``held_out_accuracy``, ``within_clip``.
    """

    round: int
    aggregator: str
    accuracy: float | None
    loss: float | None
    train_accuracy: float | None
    train_loss: float | None
    num_examples: int
    sampled: int
    included: tuple[ClientId, ...]
    dropped: dict[str, int]
    refused: dict[str, str]
    clipped: float | None
    bytes_up: int
    bytes_down: int
    model_bytes: int
    seconds: float
    training_seconds: float
    server_seconds: float
    client_seconds: float
    held_out_accuracy: float | None
    held_out_loss: float | None
    held_out_examples: int
    phases: dict[str, dict[str, float]]
    ring_difference: int | None
    aborted: str | None
    held_out_aborted: str | None = None
    noise: float | None = None
    clipped_tensors: dict[str, dict[str, float | None]] = field(default_factory=dict)
    clipped_weights: dict[str, float | None] | None = None
    epsilon: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    train_metrics: dict[str, float | None] = field(default_factory=dict)
    held_out_metrics: dict[str, float | None] = field(default_factory=dict)
    l2_clip: float | None = None
    within_clip: float | None = None
    stddevs: dict[str, float] = field(default_factory=dict)


def main_figures(record: RoundRecord) -> dict[str, float | None]:
    """Return the figures to show first: accuracy, or the loss and all metrics; without a test set, the clients' own."""
    where, loss, metrics = "", record.loss, record.metrics
    if loss is None and not metrics:
        where, loss, metrics = "training ", record.train_loss, record.train_metrics
    if [*metrics] == [ACCURACY] or (not metrics and record.accuracy is not None):
        return {f"{where}{ACCURACY}": metrics.get(ACCURACY, record.accuracy)}
    return {f"{where}loss": loss, **{f"{where}{name}": value for name, value in metrics.items()}}


def show_figure(name: str, value: float | None) -> str:
    """Return a figure as text: shares of right answers in percent, others with four digits."""
    if value is None or name.endswith(ACCURACY):
        return percent(value)
    return f"{value:.4g}"


def noisy_figures(record: RoundRecord) -> tuple[dict[str, str], dict[str, str]]:
    """Return a private round's figures of the clients, of training and of held-out examples, as text with their noise.

    Behind each is the standard deviation of its noise.
    """
    shown: tuple[dict[str, str], dict[str, str]] = ({}, {})
    sources = (
        (shown[0], "train_", {**record.train_metrics, "loss": record.train_loss}),
        (shown[0], "", {WITHIN_CLIP: record.within_clip}),
        (shown[1], "held_out_", {**record.held_out_metrics, "loss": record.held_out_loss}),
    )
    for into, prefix, values in sources:
        for name, value in values.items():
            if (stddev := record.stddevs.get(prefix + name)) is not None and value is not None:
                of = ACCURACY if name == WITHIN_CLIP else name
                into[name] = f"{show_figure(of, value)} ±{show_figure(of, stddev)}"
    return shown


def record_to_json(record: RoundRecord) -> dict[str, Any]:
    """Return plain values for JSON."""
    return {name: getattr(record, name) for name in RoundRecord.__dataclass_fields__}


def raise_if_all_aborted(config: RunConfig, records: Sequence[RoundRecord], rounds_before: int) -> None:
    """Raise AbortedError if every round of the configured aggregator after ``rounds_before`` was aborted."""
    new = [one for one in records if one.aggregator == config.protocol.aggregator and one.round > rounds_before]
    if new and all(one.aborted for one in new):
        raise AbortedError(f"no round came to a sum, and the model is what it was; the last one: {new[-1].aborted}")
