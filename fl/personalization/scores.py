"""Personal models of a simulated run's clients, measured at the clients: only totals over all clients are learned.

Each client compares its personal model with the global one on its held-out examples. A session of secure aggregation
sums the figures of both models, and in how many clients the gain lies in which part of its range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from fl.aggregation.counters import IntegerVector
from fl.aggregation.totals import TotalsEncoding
from fl.aggregation.totals_session import SummedTotals, TotalsSession
from fl.config.seeds import PERSONALIZATION_SEED, derived_seed
from fl.engines.local_worker import round_context
from fl.errors import AbortedError, ConfigError
from fl.learning.cpu import torch_threads
from fl.learning.figures import FigureRange, Total, ratio
from fl.learning.serialization import load_round_message, round_message
from fl.learning.settings import Local, Personal
from fl.learning.task import Task
from fl.learning.training import DivergedError, Evaluation, evaluate
from fl.personalization.ditto import Ditto
from fl.personalization.fine_tuning import FineTuning
from fl.personalization.head import head_inputs
from fl.personalization.making import PersonalModels
from fl.runs.personal_scores import PersonalScores
from fl.runs.rounds import FederatedRun
from fl.runs.sampling import dropout_schedule
from secagg import ClientId

_VALUE_BITS = 16
_OWN = "personal "
# Gains are counted in this many parts on each side of 0, and one around it.
_PARTS = 40
_ACCURACIES = ("accuracy", "binary-accuracy")


class Personalizer:
    """The personal models of a run's clients; made before the first round, so that mistakes are found then.

    Args:
        run: the run.
        personal: the settings. None: the run's own.

    Raises:
        ConfigError: there is no method, no client holds out examples, or the method needs the rounds' models and the
            run does not keep them.
        PlanError: the numbers of the session do not work together.
    """

    def __init__(self, run: FederatedRun, personal: Personal | None = None) -> None:
        config, worker = run.config, run.worker
        own = config.personal if personal is None else personal
        self.method = personal_method(own, config.local, run.task)
        self._name = str(own.method)
        if isinstance(self.method, Ditto) and run.sent is None:
            raise ConfigError("ditto trains in each round: set personalize to ditto before the run begins")
        if worker.max_held_out < 1:
            raise ConfigError("no client holds examples out, on which personal models are measured: raise holdout")
        if isinstance(self.method, FineTuning) and self.method.head_only:
            head_inputs(run.model, worker.training_examples(0)[0][:2])
        self._run = run
        self._models = PersonalModels(self.method, run.model, worker, load_round_message)
        self._gains = GainEncoding(run.task.figures, worker.max_held_out)
        self._session = TotalsSession(
            self._gains.encoding, run.plans, num_clients=config.data.clients, identities=run.identities
        )

    def score(self) -> PersonalScores:
        """Make each client's model from the run's global model, and return the scores of all.

        Raises:
            AbortedError: the session has no result, or no client is in it.
        """
        run, config = self._run, self._run.config
        client_ids, number = tuple(range(config.data.clients)), run.rounds_done + 1
        totals = self._session.run(
            client_ids,
            self._totals,
            context=round_context(run.model, number, run.frozen),
            faults=dropout_schedule(config, client_ids, number, PERSONALIZATION_SEED),
            seed=derived_seed(config.seed, PERSONALIZATION_SEED, number),
            workers=run.workers,
        )
        return self._gains.scores(self._name, totals)

    def model_of(self, client_id: ClientId) -> nn.Module:
        """Return the client's personal model; it is valid until the next call.

        Raises:
            DivergedError: its training diverged.
        """
        run = self._run
        last = round_message(run.model)
        if isinstance(self.method, FineTuning):
            return self._models.make(client_id, [last], [self._seed(client_id, run.rounds_done)])
        # After the last round, all clients get the last model.
        received = [*(model.message for model in run.sent or () if client_id in model.included), last]
        seeds = [self._seed(client_id, step) for step in range(len(received))]
        return self._models.make(client_id, received, seeds)

    def _totals(self, client_id: ClientId) -> IntegerVector:
        worker = self._run.worker
        places = worker.examples[client_id].held_out
        if not len(places):
            return self._gains.encode(None)
        held_out = worker.data.examples(client_id, places)
        try:
            personal = self.model_of(client_id)
        except DivergedError:
            return self._gains.encode(None)
        with torch_threads(worker.threads):
            return self._gains.encode(
                (
                    evaluate(self._run.model, *held_out, task=self._run.task),
                    evaluate(personal, *held_out, task=self._run.task),
                )
            )

    def _seed(self, client_id: ClientId, number: int) -> int:
        return derived_seed(self._run.config.seed, PERSONALIZATION_SEED, number, client_id)


class GainEncoding:
    """The totals that a client sends: figures of both models, and which part of the range its gain is in.

    Args:
        figures: the ranges of the loss and of each metric.
        max_examples: a bound on the number of a client's held-out examples.
    """

    def __init__(self, figures: tuple[FigureRange, ...], max_examples: int) -> None:
        loss, *metrics = figures
        self._names = [metric.name for metric in metrics]
        own = [replace(figure, name=_OWN + figure.name) for figure in (*metrics, loss)]
        flags = [(name, 1) for name in ("clients", "better", "worse", "lower losses")]
        flags += [(f"gains in part {part}", 1) for part in range(2 * _PARTS + 1)]
        self.encoding = TotalsEncoding((loss, *metrics, *own), max_examples, tuple(flags), _VALUE_BITS)
        self.gain = next((name for name in self._names if name in _ACCURACIES), "loss")

    def encode(self, measured: tuple[Evaluation, Evaluation] | None) -> IntegerVector:
        """Return the totals of one client, from figures of the global and the personal model; None adds nothing."""
        if measured is None:
            return self.encoding.encode(0, 0.0, ((0, 0),) * (2 * len(self._names) + 1), (0,) * (4 + 2 * _PARTS + 1))
        before, after = measured
        gain = self._gain(before, after)
        parts = [0] * (2 * _PARTS + 1)
        parts[_PARTS + round(min(1.0, max(-1.0, gain)) * _PARTS)] = 1
        flags = (1, int(gain > 0), int(gain < 0), int(after.loss < before.loss), *parts)
        own_loss: Total = after.loss * after.num_examples, after.num_examples
        metrics = (*before.totals.values(), *after.totals.values(), own_loss)
        return self.encoding.encode(before.num_examples, before.loss * before.num_examples, metrics, flags, clips=True)

    def _gain(self, before: Evaluation, after: Evaluation) -> float:
        if self.gain != "loss":
            # By counts of right answers: a rounding error must not decide the sign of a gain.
            (right, count), (now, _) = before.totals[self.gain], after.totals[self.gain]
            return (now - right) / count if count else 0.0
        return (before.loss - after.loss) / abs(before.loss) if before.loss else 0.0

    def scores(self, method: str, totals: SummedTotals | str) -> PersonalScores:
        """Return the scores in a session's totals. Raises AbortedError if there are none."""
        if isinstance(totals, str):
            raise AbortedError(f"no scores of personal models: {totals}")
        clients, better, worse, lower_loss, *parts = totals.further
        if not clients:
            raise AbortedError("no scores of personal models: no client has one that could be measured")
        figures = {name: ratio(total) for name, total in totals.figures.items()}
        p10, median, p90 = _percentiles(parts, (0.1, 0.5, 0.9))
        return PersonalScores(
            method=method,
            clients=clients,
            held_out=totals.examples,
            loss=figures["loss"],
            metrics={name: figures[name] for name in self._names},
            personal_loss=figures[f"{_OWN}loss"],
            personal_metrics={name: figures[_OWN + name] for name in self._names},
            gain=self.gain,
            p10=p10,
            median=median,
            p90=p90,
            better=better / clients,
            worse=worse / clients,
            lower_loss=lower_loss / clients,
            histogram=tuple(parts),
        )


def personal_method(personal: Personal, local: Local, task: Task) -> FineTuning | Ditto:
    """Return the method that these settings name, where a round's training is ``local``; ConfigError for none."""
    training = personal.training(local)
    if personal.method is None:
        raise ConfigError("name a method of personal models: head, full, proximal or ditto")
    if personal.method == "ditto":
        return Ditto(training, personal.strength, task)
    return FineTuning(training, head_only=personal.method == "head", task=task)


def _percentiles(parts: Sequence[int], fractions: Sequence[float]) -> list[float]:
    """Return percentiles of the gains in a histogram, as the centres of its parts."""
    upto = np.cumsum(parts)
    places = [int(np.searchsorted(upto, fraction * upto[-1])) for fraction in fractions]
    return [(place - _PARTS) / _PARTS for place in places]
