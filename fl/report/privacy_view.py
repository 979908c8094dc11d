"""Make the page's part on a private run: the budget in words, and epsilon by round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fl.formatting import percent
from fl.privacy.accounting import ORDERS, Divergences, Release, epsilon_of
from fl.privacy.ledger import Ledger
from fl.report.charts import Chart, Curve, curves_chart
from fl.report.source import StoredRun
from fl.runs.records import RoundRecord, noisy_figures

ADJACENCY = (
    "With or without everything that one client ever sends; the number of clients is public. Whatever somebody sees, "
    "its odds are at most e^epsilon times as high with the client as without, except with probability delta."
)


@dataclass(frozen=True, slots=True)
class PrivacyView:
    """What the page says of a private run.

    Attributes:
        epsilon, delta: the budget.
        spent: the epsilon that is spent, to all who do not learn who took part.
        known: the epsilon of a client that is known to have taken part in the expected number of rounds; None if that
            is the same, or the ledger is missing.
        rate: the share of clients in a round.
        adjacency: the meaning of epsilon.
        attempts: the number of sessions that were charged; None without the ledger.
        chart: epsilon by round.
        figures: the last round's noisy figures, as text.
    """

    epsilon: float
    delta: float
    spent: float
    known: float | None
    rate: float
    adjacency: str
    attempts: int | None
    chart: Chart | None
    figures: list[str]


def privacy_view(run: StoredRun) -> PrivacyView | None:
    """Return what the page says of privacy; None for a run without noise."""
    privacy = run.config.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return None
    rate = run.config.sample / run.config.data.clients
    known = {} if run.ledger is None or rate >= 1 else known_by_round(run.ledger)
    start = (0, 0.0)
    spent = (start, *((one.round, one.epsilon) for one in run.own))
    curves = [Curve("spent", spent, "to all who do not learn who took part" if rate < 1 else "")]
    if known:
        points = (start, *((one.round, known.get(one.round)) for one in run.own))
        curves.append(Curve("known", points, f"the server: a client in {percent(rate)} of the rounds"))
    curves.append(Curve("budget", ((0, privacy.epsilon),)))
    chart = curves_chart(
        "Epsilon by round",
        curves,
        y_label="epsilon",
        show=lambda value: f"{value:.4g}",
        tick=lambda value: f"{value:g}",
        caption=f"At delta {privacy.delta:g}. Each attempt at a round is charged, also one that was aborted.",
    )
    return PrivacyView(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        spent=max(one.epsilon or 0.0 for one in run.own),
        known=next((known[one.round] for one in reversed(run.own) if one.round in known), None),
        rate=rate,
        adjacency=ADJACENCY,
        attempts=None if run.ledger is None else len(run.ledger.charges),
        chart=chart,
        figures=_figures(run.own[-1]),
    )


def known_by_round(ledger: Ledger) -> dict[int, float]:
    """Return, by round, the epsilon of a client that is known to have taken part as often as is expected.

    Without the gain of sampling, in ceil(q m) of the m charges so far.
    """
    total, found = np.zeros(len(ORDERS)), {}
    divergences: dict[Release, Divergences] = {}
    for count, charge in enumerate(ledger.charges, 1):
        if charge.release not in divergences:
            divergences[charge.release] = charge.release.known().divergences()
        total += divergences[charge.release]
        expected = math.ceil(charge.release.sampling_rate * count - 1e-9)
        found[charge.round] = epsilon_of(total * (expected / count), ledger.delta)
    return found


def _figures(record: RoundRecord) -> list[str]:
    training, held_out = noisy_figures(record)
    return [
        *(f"{name.replace('_', ' ')} {value}" for name, value in training.items()),
        *(f"held-out {name} {value}" for name, value in held_out.items()),
    ]
