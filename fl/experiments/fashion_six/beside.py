"""Beside the federated runs: without secrecy, all data in one place, and the clients by themselves."""

from __future__ import annotations

from fl.experiments.beside import Beside, curve
from fl.experiments.fashion_six.arms import CLIENTS, OPTIMIZERS
from fl.experiments.results import Document, arms_by_name


def beside(document: Document) -> dict[str, Beside]:
    """See `fl.experiments.catalog.ExperimentModule`."""
    arms = arms_by_name(document)
    found = {}
    for optimizer in OPTIMIZERS:
        series = []
        if twin := arms.get(f"federated-{optimizer}-plain"):
            series.append(curve("plain sums", [twin]))
        if central := arms.get(f"central-{optimizer}"):
            series.append(curve("central", [central], "an epoch a round"))
        alone = [arms[name] for client in range(CLIENTS) if (name := f"alone-{optimizer}-{client}") in arms]
        if len(alone) == CLIENTS:
            series.append(curve("local", alone, "each client alone, the mean"))
        if f"federated-{optimizer}" in arms:
            found[f"federated-{optimizer}"] = Beside(tuple(series))
    return found
