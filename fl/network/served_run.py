"""A run with clients on other machines: the announcements of its rounds, and their results."""

import time
from dataclasses import replace

from fl.config.run_config import RunConfig
from fl.data import Dataset
from fl.learning.serialization import round_message
from fl.network.aggregator import NetworkAggregator
from fl.network.announcement import RoundAnnouncement
from fl.runs.records import RoundRecord
from fl.runs.rounds import ProgressObserver
from fl.runs.run import Run


class ServedRun(Run):
    """One global model, trained round by round by clients on other machines.

    Args:
        config, dataset, max_examples: see `fl.runs.run.Run`.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, *, max_examples: int | None = None) -> None:
        super().__init__(config, dataset, "secure", max_examples=max_examples)

    def announcement(self) -> RoundAnnouncement:
        """Return the announcement of the next session, with the tracker's bounds.

        That of a private session still lacks its terms, which depend on the number of clients.
        """
        return RoundAnnouncement(
            round=self.rounds_done + 1,
            rounds=self.config.rounds,
            model=self.config.model,
            image_shape=self.dataset.image_shape,
            num_classes=self.dataset.num_classes,
            input_type=str(self.dataset.train_images.dtype).removeprefix("torch."),
            loss=self.config.loss,
            metrics=self.config.metrics,
            value_bits=self.config.value_bits,
            scales=None if self.config.privacy.epsilon is not None else self.tracker.scales,
            training=self.config.local.in_round(self.rounds_done + 1),
            holdout=self.config.data.holdout,
            seed=self.config.seed,
            frozen_sha256=self.frozen,
            model_bytes=round_message(self.model),
        )

    def scored(self) -> RoundAnnouncement:
        """Return the announcement of the session for scores of the model after the last finished round."""
        return replace(self.announcement(), round=self.rounds_done, scales=None, purpose="scores")

    def run_round(self, aggregator: NetworkAggregator, observe: ProgressObserver | None = None) -> RoundRecord:
        """Run one round, and apply its mean update to the model if it has a result."""
        started = time.perf_counter()
        model_bytes = len(round_message(self.model))
        observer = None if observe is None else (lambda *state: observe(self.name, *state))
        result, sampled = aggregator.aggregate(observer)
        result = self.end_round(result)
        seconds = time.perf_counter() - started
        measured = None
        if self.config.data.holdout and not result.aborted:
            measured = aggregator.score(self.scored(), observer)
        return self.measure(
            result,
            sampled=sampled,
            model_bytes=sampled * model_bytes,
            seconds=seconds,
            measured=measured,
            epsilon=aggregator.spent,
        )
