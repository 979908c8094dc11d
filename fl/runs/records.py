"""What is kept of a run's rounds: figures, a line of the run's metrics each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fl.config.run_config import RunConfig
from fl.errors import AbortedError
from secagg import ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round in figures; a line of the run's metrics.

    Attributes:
        round: from 1.
        aggregator: `secure` or `plain`.
        accuracy, loss: of the new global model on the test set.
        train_accuracy, train_loss: of the clients' models on their own examples, from the aggregated totals.
        num_examples: that the round's clients trained on.
        sampled: how many clients were asked.
        included: the ids of those whose updates are in the mean.
        dropped: how many vanished, by the round of the protocol in which they did.
        refused: the clients that had no update that may be sent, such as one with NaN in it, and why. They know it
            themselves; a server sees clients that vanished. By id, as text: JSON has no other keys.
        clipped: the fraction of update elements that were clipped.
        clipped_tensors: by name, how many clients exceeded the tensor's bound, the bound, and one that would have done
            for all, as far as is known (`fl.aggregation.scales.Exceeded`); ``clipped_weights`` likewise for
            the clients' weights.
        noise: the rounding noise over the mean update, both in each tensor's bound.
        bytes_up, bytes_down: of all clients' protocol messages.
        model_bytes: of the model, sent to each sampled client.
        seconds: of the round without the test; training_seconds: of all clients' training in it;
            with an engine that trains elsewhere, what the round waited for it.
        server_seconds: of the server's part of the protocol; client_seconds: the median client's, training not counted.
        held_out_accuracy, held_out_loss: of the new global model on what the round's clients hold out, from totals that
            were aggregated securely; None without `RunConfig.holdout`, or if that session was aborted.
        held_out_examples: how many examples those totals are of.
        held_out_aborted: why that session came to no totals, if it came to none.
        phases: what each round of the protocol cost (`fl.aggregation.phases.PhaseCost`), by its name.
        ring_difference: secure sum against plain sum of the same vectors; None where not checked.
        aborted: why the model did not change, if it did not.
    """

    round: int
    aggregator: str
    accuracy: float
    loss: float
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


def record_to_json(record: RoundRecord) -> dict[str, Any]:
    """Plain values for JSON."""
    return {name: getattr(record, name) for name in RoundRecord.__dataclass_fields__}


def raise_if_all_aborted(config: RunConfig, records: Sequence[RoundRecord], rounds_before: int) -> None:
    """A training in which no round came to a sum has failed, however many more it might try."""
    new = [one for one in records if one.aggregator == config.protocol.aggregator and one.round > rounds_before]
    if new and all(one.aborted for one in new):
        raise AbortedError(f"no round came to a sum, and the model is what it was; the last one: {new[-1].aborted}")
