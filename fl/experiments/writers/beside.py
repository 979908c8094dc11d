"""The extra data of a federated run: the curve of the other run, and each writer's personal models."""

from __future__ import annotations

from typing import Any

from fl.experiments.beside import Beside, curve
from fl.experiments.results import Document, arms_by_name
from fl.experiments.writers.arms import DROPOUT_MODELS, METHODS
from fl.report.extras import Personalization, PersonalizedClient, PersonalizedMethod


def beside(document: Document) -> dict[str, Beside]:
    """Return the extra data for reports; see `fl.experiments.catalog.ExperimentModule`."""
    arms = arms_by_name(document)
    found = {}
    for name in DROPOUT_MODELS:
        if f"federated-{name}" not in arms:
            continue
        series = tuple(
            curve(who, [arms[f"federated-{other}"]])
            for other, who in DROPOUT_MODELS.items()
            if other != name and f"federated-{other}" in arms
        )
        methods = tuple(
            _method(title, arms[f"{method}-{name}"])
            for method, (title, _, _) in METHODS.items()
            if f"{method}-{name}" in arms
        )
        found[f"federated-{name}"] = Beside(series, Personalization(methods, what="writer") if methods else None)
    return found


def _method(title: str, arm: dict[str, Any]) -> PersonalizedMethod:
    columns = arm["by_client"]
    counts = (columns["client"], columns["held_out"], columns["global_correct"], columns["personal_correct"])
    clients = (
        PersonalizedClient(
            id=client,
            examples=held_out,
            global_accuracy=global_correct / held_out,
            personal_accuracy=personal_correct / held_out,
        )
        for client, held_out, global_correct, personal_correct in zip(*counts, strict=True)
    )
    return PersonalizedMethod(title, tuple(clients))
