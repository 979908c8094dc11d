"""The adapters without torch, scikit-learn and other tools of training: nodes of other frameworks lack them."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {"torch", "sklearn", "matplotlib", "scipy", "typer", "rich", "pooch", "safetensors", "jinja2", "markupsafe"}
# The frameworks bring their own command lines and pages.
THEIRS = {"typer", "rich", "jinja2", "markupsafe"}

WITHOUT = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY - THEIRS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""

FLOWER = """
import numpy as np
from flwr.serverapp.strategy import FedAvg
from fl.integrations.flower import SecAggGrid, secagg_mod
from tests.integrations.flower.apps import initial_arrays, make_app
from tests.integrations.flower.loopback import LoopbackGrid

grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), 3))
strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
before = initial_arrays()
result = strategy.start(grid=grid, initial_arrays=before, num_rounds=1)
assert result.arrays.keys() == before.keys(), result
assert all(np.abs(result.arrays[name].numpy() - before[name].numpy()).max() > 0 for name in before)
"""

NVFLARE = """
import tempfile
from pathlib import Path
import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel
from tests.integrations.nvflare.loopback import LoopbackCourier, Site, announce, initial_model
from fl.integrations.nvflare import add_secure_aggregation
from fl.integrations.nvflare.model_encoding import as_model
from secagg import Adversary

def train(model):
    return FLModel(params={name: entry + 1 for name, entry in model.params.items()})

with tempfile.TemporaryDirectory() as folder:
    for name in "abc":
        (Path(folder) / name).mkdir()
    sites = {name: Site(name, train, Path(folder)) for name in "abc"}
    model = initial_model()
    courier = LoopbackCourier(announce(model, sites, Adversary.SEMI_MALICIOUS), model, sites)
    outcome = courier.run().outcome
    mean = courier.announcement.encoding.decode(outcome.sum, 3, as_model(model.params))
    assert np.allclose(mean.differences["bias"], 1.0, atol=1e-4), mean
"""


@pytest.mark.parametrize(("framework", "code"), [("flwr", FLOWER), ("nvflare", NVFLARE)])
def test_an_adapter_works_without_what_trains(framework: str, code: str) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs {framework}, which has its own environment")
    done = subprocess.run(  # noqa: S603 - the code is ours
        [sys.executable, "-c", WITHOUT + code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("extra", ["flower", "nvflare"])
def test_an_adapters_extra_brings_nothing_that_trains(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [requirement.split(">=")[0].split("[")[0] for requirement in extras[extra]]
    assert not {"secagg-fl", "scikit-learn", *HEAVY} & set(names)
