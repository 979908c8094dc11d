"""An experiment's results: one JSON document with all data to repeat it.

::

    {"format": 1, "experiment", "title", "quick", "seed", "command", "created", "versions": {...}, "machine": {...},
     "jobs", "threads", "elapsed_seconds", "unfinished": [names], "arms": [{"name", "title", "settings", ...result}]}
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from fl.errors import ConfigError
from fl.experiments.experiment import Experiment
from fl.experiments.files import read_json
from fl.experiments.folder import FORMAT, ExperimentFolder, ExperimentIdentity

Document = dict[str, Any]


def new_document(
    experiment: Experiment, folder: ExperimentFolder, identity: ExperimentIdentity, *, jobs: int
) -> Document:
    """Return the document of the folder's results, with this machine and the present time."""
    arms, unfinished = [], []
    for arm in experiment.arms:
        result = folder.result(arm.name)
        if result is None:
            unfinished.append(arm.name)
        else:
            arms.append({"name": arm.name, "title": arm.title, "settings": arm.settings(), **result})
    return {
        "format": FORMAT,
        "experiment": experiment.name,
        "title": experiment.title,
        "quick": identity.quick,
        "seed": identity.seed,
        "command": command(identity, jobs=jobs),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "machine": _machine(),
        "jobs": jobs,
        "threads": identity.threads,
        "elapsed_seconds": round(folder.elapsed_seconds, 1),
        "unfinished": unfinished,
        "arms": arms,
    }


def command(identity: ExperimentIdentity, *, jobs: int) -> str:
    """Return the command line that gives these results."""
    parts = ["secagg", "experiment", identity.experiment, *(["--quick"] if identity.quick else [])]
    return " ".join([*parts, "--seed", str(identity.seed), "--jobs", str(jobs), "--threads", str(identity.threads)])


def read_document(path: Path) -> Document:
    """Return the document in a file; raise ConfigError if it is missing or has another format."""
    document = read_json(path)
    if document is None:
        raise ConfigError(f"{path} has no results")
    if not isinstance(document, dict) or document.get("format") != FORMAT or "arms" not in document:
        raise ConfigError(f"{path} does not hold results of format {FORMAT}: it is from another version, or damaged")
    return document


def arms_by_name(document: Document) -> dict[str, dict[str, Any]]:
    """Return the finished arms' results, by name."""
    return {arm["name"]: arm for arm in document["arms"]}


def _versions() -> dict[str, str]:
    names = {"secagg": "secagg-fl", "torch": "torch", "numpy": "numpy", "cryptography": "cryptography"}
    return {"python": platform.python_version(), **{name: metadata.version(package) for name, package in names.items()}}


def _machine() -> dict[str, Any]:
    """Return data to compare machines, without anything that identifies the machine."""
    return {
        "cpu": _cpu_name() or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()}, {platform.machine()}",
    }


def _cpu_name() -> str:
    """Return the CPU's name from Linux; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
