"""NVFlare's executors, controllers and evaluations that can be made secure: each one in its releases is decided on."""

import ast
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
import nvflare
from nvflare.apis.executor import Executor
from nvflare.apis.shareable import Shareable
from nvflare.app_common.executors.learner_executor import LearnerExecutor
from nvflare.app_common.workflows.cross_site_model_eval import CrossSiteModelEval
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.app_opt.pt.recipes.fedopt import FedOptRecipe
from nvflare.client.config import ExchangeFormat

from fl.integrations.nvflare import NVFlareJobError, add_secure_aggregation
from fl.integrations.nvflare.job_parts import TRAINERS, check_trainer
from tests.integrations.nvflare.jobs import run_job
from tests.integrations.nvflare.test_recipe import exported, make_recipe

REFUSED = {
    # Run the workflow themselves, on the sites.
    "nvflare.app_common.ccwf": [
        "ClientControllerExecutor", "ClientSideController", "CrossSiteEvalClientController", "CyclicClientController",
        "SwarmClientController",
    ],
    "nvflare.app_opt.p2p.executors": [
        "BaseDistOptExecutor", "ConsensusExecutor", "DGDExecutor", "GTADAMExecutor", "GTExecutor",
        "SyncAlgorithmExecutor",
    ],
    "nvflare.collab.runtime": ["CollabExecutor"],
    # Bring another framework's own exchange.
    "nvflare.app_common.tie": ["TieExecutor"],
    "nvflare.app_common.hub": ["HubExecutor"],
    "nvflare.app_opt.flower": ["FlowerExecutor", "MockExecutor", "MockPyExecutor"],
    # Are for tasks other than training a model.
    "nvflare.app_common.np": ["NPValidator"],
    "nvflare.app_opt.tf": ["TFValidator"],
    "nvflare.app_common.psi": ["PSIExecutor"],
    "nvflare.app_opt.feature_election": ["FeatureElectionExecutor"],
    "nvflare.app_common.executors": [
        "ErrorHandlingExecutor", "SplitNNLearnerExecutor", "StatisticsExecutor",
        # Need processes beside the site's that something else starts.
        "IPCExchanger", "LauncherExecutor", "MultiProcessExecutor", "TaskExchanger",
    ],
    "nvflare.app_opt.pt": ["PTMultiProcessExecutor"],
    # Trees, and models that begin empty on the sites.
    "nvflare.app_opt.xgboost": [
        "FedXGBEvalExecutor", "FedXGBHistogramExecutor", "FedXGBTreeExecutor", "MockSecureXGBExecutor",
        "MockXGBExecutor", "XGBExecutor",
    ],
    "nvflare.app_opt.sklearn": ["SKLearnExecutor"],
    # Pass on updates from devices.
    "nvflare.edge": [
        "DLTrainer", "ETEdgeModelExecutor", "EdgeModelExecutor", "EdgeTaskExecutor", "HierarchicalUpdateGatherer",
        "PTTrainer", "SimpleEdgeExecutor",
    ],
}  # fmt: skip


def shipped_executors() -> set[str]:
    """Return executors by reading the source: many cannot be imported without missing frameworks."""
    root = Path(nvflare.__file__).parent
    bases: dict[tuple[str, str], set[str]] = {}
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[module, node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    found: set[tuple[str, str]] = set()
    while new := {
        key for key, names in bases.items() if names & {"Executor", *(name for _, name in found)} and key not in found
    }:
        found |= new
    return {".".join(key) for key in found}


def test_every_class_that_nvflare_ships_is_decided_on() -> None:
    shipped = shipped_executors()
    assert len(shipped) > 40
    undecided = {
        name
        for name in shipped - TRAINERS
        if not any(
            name.startswith(package + ".") and name.rpartition(".")[2] in refused
            for package, refused in REFUSED.items()
        )
    }
    assert not undecided, f"try these executors, and list them in job_parts.TRAINERS or here: {sorted(undecided)}"


def made(module: str, name: str) -> Executor:
    """Return an instance of the class without initialization."""
    kind = type(name, (Executor,), {"execute": lambda *_: None, "__module__": module})
    return kind()


@pytest.mark.parametrize("name", sorted(name for names in REFUSED.values() for name in names))
def test_the_others_are_refused_with_what_works(name: str) -> None:
    package = next(package for package, names in REFUSED.items() if name in names)
    with pytest.raises(NVFlareJobError, match=f"{name} cannot train under secure aggregation: use a script"):
        check_trainer(made(f"{package}.somewhere", name))


def test_executors_of_the_jobs_own_are_taken() -> None:
    check_trainer(made("my_trainers", "MyTrainer"))
    own = type("Mine", (LearnerExecutor,), {"__module__": "my_trainers"})
    check_trainer(own("learner"))


def client_api_executor(**arguments: Any) -> Executor:
    module = pytest.importorskip("nvflare.app_common.executors.client_api_executor", reason="new in NVFlare 2.9")
    executor: Executor = module.ClientAPIExecutor(**arguments)
    return executor


def test_client_api_executors_are_taken_but_for_the_mode_that_was_not_tried() -> None:
    check_trainer(client_api_executor(execution_mode="in_process", task_script_path="client.py"))
    check_trainer(client_api_executor(execution_mode="external_process", command="python client.py"))
    with pytest.raises(NVFlareJobError, match="mode 'attach' was not tried: use a script"):
        check_trainer(client_api_executor(execution_mode="attach", attach_id="a" * 16))


def test_nvflares_own_trainers_train(tmp_path: Path) -> None:
    """One on each site. Those of scripts have their own jobs: test_simulator.py and test_torch_jobs.py."""
    log = run_job(tmp_path, "run_learners.py")
    assert log.count("the sum of 4 of 4 sites") == 2
    # It begins with 1 to 9, and each adds 1 in each round.
    model = np.load(next(tmp_path.rglob("server.npy")))
    np.testing.assert_allclose(model.ravel(), np.arange(3, 12), atol=1e-5)


def torch_recipe(kind: Any = FedAvgRecipe, **changes: Any) -> Any:
    from torch import nn

    arguments = {
        "name": "job",
        "model": nn.Linear(2, 2),
        "min_clients": 2,
        "num_rounds": 4,
        "train_script": "client.py",
    }
    return kind(**(arguments | changes))


@pytest.fixture(autouse=True)
def _script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("client.py").write_text("")


def test_tensors_are_refused_when_the_job_is_made() -> None:
    recipe = torch_recipe(server_expected_format=ExchangeFormat.PYTORCH)
    with pytest.raises(NVFlareJobError, match=r"exchange PYTORCH, .*ExchangeFormat\.NUMPY, the default"):
        add_secure_aggregation(recipe, clip=1.0, max_steps=64)
    add_secure_aggregation(torch_recipe(), clip=1.0, max_steps=64)


def evaluation(submit: str = "submit_model") -> CrossSiteModelEval:
    return CrossSiteModelEval(model_locator_id="locator", submit_model_task_name=submit)


def secured(recipe: Any, **arguments: Any) -> None:
    add_secure_aggregation(recipe, **({"clip": 1.0, "max_steps": 64} | arguments))


def add(recipe: Any, controller: Any) -> None:
    (getattr(recipe, "_job", None) or recipe.job).to_server(controller)


@pytest.mark.parametrize(
    ("submit", "plain_tasks", "reason"),
    [
        ("submit_model", [], "its own model, .* add_final_global_evaluation.* plain_tasks=\\['validate'\\]"),
        ("submit_model", ["validate"], "its own model, .* add_final_global_evaluation"),
        ("", [], "each site's metrics in the clear: .* plain_tasks=\\['validate'\\]"),
        ("", ["validate"], None),
        ("submit_model", ["validate", "submit_model"], None),
    ],
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_evaluation_works_or_is_refused_in_either_order(
    tmp_path: Path, order: str, submit: str, plain_tasks: list[str], reason: str | None
) -> None:
    """Refused when it is added, and not after the sites have trained."""
    recipe = make_recipe()
    first = (lambda: add(recipe, evaluation(submit)), lambda: secured(recipe, plain_tasks=plain_tasks))
    steps = first if order == "before" else first[::-1]
    steps[0]()
    if reason is not None:
        with pytest.raises(NVFlareJobError, match=reason):
            steps[1]()
        return
    steps[1]()
    server, client, _ = exported(recipe, tmp_path)
    paths = [workflow["path"].rpartition(".")[2] for workflow in server["workflows"]]
    assert paths == ["SecAggController", "CrossSiteModelEval"]
    assert client["executors"][0]["executor"]["args"]["plain_tasks"] == plain_tasks


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_helper_that_adds_cross_site_evaluation_is_refused(order: str) -> None:
    from nvflare.recipe.utils import add_cross_site_evaluation

    recipe = torch_recipe()
    steps = [lambda: add_cross_site_evaluation(recipe), lambda: secured(recipe, plain_tasks=["validate"])]
    first, second = steps if order == "before" else steps[::-1]
    first()
    with pytest.raises(NVFlareJobError, match="add_final_global_evaluation"):
        second()


def test_other_workflows_beside_are_refused() -> None:
    from nvflare.app_common.workflows.cyclic import Cyclic

    recipe = make_recipe()
    secured(recipe)
    with pytest.raises(NVFlareJobError, match="Cyclic beside the training"):
        add(recipe, Cyclic(num_clients=2))


def test_training_is_not_a_plain_task() -> None:
    with pytest.raises(NVFlareJobError, match="remove it from plain_tasks"):
        secured(make_recipe(), plain_tasks=["validate", "train"])


def test_fedopt_keeps_its_generator(tmp_path: Path) -> None:
    recipe = torch_recipe(FedOptRecipe)
    secured(recipe)
    server, _, _ = exported(recipe, tmp_path)
    (workflow,) = server["workflows"]
    assert workflow["path"] == "fl.integrations.nvflare.controller.SecAggController"
    arguments = workflow["args"]
    assert arguments["num_rounds"] == 4
    assert arguments["shareable_generator_id"] == "shareable_generator"
    # The widget that selects the best model uses it.
    assert arguments["metrics"] == ["accuracy"]
    assert "shareable_generator" in {component["id"] for component in server["components"]}


def test_components_that_need_each_update_are_refused_with_fedopt() -> None:
    from nvflare.app_common.aggregators import InTimeAccumulateWeightedAggregator
    from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator

    class Median(InTimeAccumulateWeightedAggregator):
        pass

    class Sending(FullModelShareableGenerator):
        def learnable_to_shareable(self, model_learnable: Any, fl_ctx: Any) -> Shareable:
            return Shareable()

    with pytest.raises(NVFlareJobError, match="the aggregator Median needs each site's update"):
        secured(torch_recipe(FedOptRecipe, aggregator=Median()))
    weighted = InTimeAccumulateWeightedAggregator(aggregation_weights={"site-1": 2.0})
    with pytest.raises(NVFlareJobError, match="weights by site"):
        secured(torch_recipe(FedOptRecipe, aggregator=weighted))
    recipe = torch_recipe(FedOptRecipe)
    server = (getattr(recipe, "_job", None) or recipe.job)._deploy_map["server"].app_config
    server.components["shareable_generator"] = Sending()
    with pytest.raises(NVFlareJobError, match="the shareable generator Sending changes the sites' task"):
        secured(recipe)


def test_zero_steps_are_refused_with_a_reason() -> None:
    with pytest.raises(NVFlareJobError, match="at least one step in a round, so max_steps cannot be 0"):
        secured(make_recipe(), max_steps=0)


def test_bounds_of_any_numeric_type_are_taken(tmp_path: Path) -> None:
    recipe = make_recipe()
    secured(recipe, max_steps=np.int64(64))
    server, _, _ = exported(recipe, tmp_path)
    assert server["workflows"][0]["args"]["max_steps"] == 64
