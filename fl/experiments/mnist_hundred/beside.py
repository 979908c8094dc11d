"""Beside a run: the same setting trained the other way."""

from __future__ import annotations

from fl.experiments.beside import Beside, curve
from fl.experiments.mnist_hundred.arms import SETTINGS
from fl.experiments.results import Document, arms_by_name


def beside(document: Document) -> dict[str, Beside]:
    """See `fl.experiments.catalog.ExperimentModule`."""
    arms = arms_by_name(document)
    found = {}
    for setting in SETTINGS:
        averaging, fast = arms.get(setting.name), arms.get(f"{setting.name}-fast")
        if averaging and fast:
            found[setting.name] = Beside((curve("faster", [fast], setting.why),))
            found[f"{setting.name}-fast"] = Beside((curve("federated averaging", [averaging]),))
    return found
