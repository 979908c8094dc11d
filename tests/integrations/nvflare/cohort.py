"""Sites with identities, whose updates show their trainers' inputs, and a server that may lie."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.dxo import MetaKey
from nvflare.app_common.abstract.fl_model import FLModel

from fl.integrations.nvflare import SiteKeyFiles, new_identity_file
from fl.integrations.nvflare.model_encoding import as_model
from secagg import Adversary, Completed, plan
from tests.integrations.nvflare.loopback import LoopbackCourier, Site, announce, encoding, initial_model

SITES = ("a", "b", "c", "d")
VICTIM = "b"
STEPS = 10


class Cohort:
    """The sites' machines: their identities, and their files between sessions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = {}
        for name in SITES:
            (folder / name).mkdir()
            keys[name] = new_identity_file(folder / name / "secagg_identity.key")
        for name in (*SITES, "server"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "secagg_directory.json").write_text(json.dumps(keys))

    def sites(self, train: Callable[[FLModel], FLModel] | None = None, **arguments: Any) -> dict[str, Site]:
        """Return the sites, as newly started processes."""
        if arguments.get("adversary") != "semi-malicious":
            arguments |= {"components": {"ids": SiteKeyFiles()}, "identity_id": "ids"}
        return {name: Site(name, train or by_learning_rate(name), self.folder, **arguments) for name in SITES}

    def directory(self, sites: tuple[str, ...] = SITES) -> Any:
        return SiteKeyFiles().directory(sites, Site("server", lambda model: model, self.folder).context())


def by_learning_rate(site: str) -> Callable[[FLModel], FLModel]:
    """Train as far as the learning rate in the model's meta says."""

    def train(model: FLModel) -> FLModel:
        rate = (model.meta or {}).get("lr", 0.0)
        change = rate * (1 + SITES.index(site))
        params = {name: model.params[name] + np.float32(change) for name in ("weight", "bias")}
        return FLModel(params=params, metrics={"accuracy": 0.5}, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS})

    return train


def model_with(rate: float, round_: int = 3) -> FLModel:
    model = initial_model()
    model.meta, model.current_round = {"lr": rate}, round_
    return model


def courier_of(
    sites: dict[str, Site], model: FLModel, threshold: int = 3, adversary: Adversary = Adversary.MALICIOUS, **other: Any
) -> LoopbackCourier:
    announced = other.pop("announced", {})
    params = plan(
        num_clients=len(sites),
        vector_length=encoding(num_sites=len(sites)).vector_length(as_model(model.params)),
        value_bits=24,
        adversary=adversary,
        threshold=threshold,
    ).parameters
    return LoopbackCourier(announce(model, sites, **({"params": params} | announced)), model, sites, **other)


def mean_change(courier: LoopbackCourier, outcome: Any) -> float:
    assert isinstance(outcome, Completed)
    arrays = as_model(courier.model.params)
    mean = courier.announcement.encoding.decode(outcome.sum, len(outcome.included), arrays)
    return float(mean.differences["bias"].mean())


def assert_ends_well(cohort: Cohort, courier: LoopbackCourier, rate: float = 0.25) -> None:
    """Assert that the honest session, with all its announced sites, ends well."""
    names = courier.announcement.sites
    directory = cohort.directory(names) if courier.announcement.params.has_identities else None
    report = courier.run(directory=directory)
    assert isinstance(report.outcome, Completed), report
    assert len(report.outcome.included) == len(names)
    expected = rate * np.mean([1 + SITES.index(name) for name in names])
    assert mean_change(courier, report.outcome) == pytest.approx(expected, abs=1e-5)
