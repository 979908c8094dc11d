"""Summarize what a model of its own gives each client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fl.report.extras import PersonalizedMethod


@dataclass(frozen=True, slots=True)
class MethodGains:
    """A method's gains, in percentage points of accuracy on each client's held-out examples; shares in 0..1."""

    name: str
    clients: int
    examples: int
    global_accuracy: float
    personal_accuracy: float
    mean: float
    tenth: float
    median: float
    ninetieth: float
    better: float
    worse: float


def summarize_gains(method: PersonalizedMethod) -> MethodGains:
    """Return means and percentiles over the clients; each counts once, however many examples it has."""
    gains = method.gains
    tenth, median, ninetieth = np.percentile(gains, [10, 50, 90])
    return MethodGains(
        name=method.name,
        clients=len(gains),
        examples=sum(client.examples for client in method.clients),
        global_accuracy=float(np.mean([client.global_accuracy for client in method.clients])),
        personal_accuracy=float(np.mean([client.personal_accuracy for client in method.clients])),
        mean=float(gains.mean()),
        tenth=float(tenth),
        median=float(median),
        ninetieth=float(ninetieth),
        better=float((gains > 0).mean()),
        worse=float((gains < 0).mean()),
    )
