"""NVFlare's recipes made secure, as the jobs that they export."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from nvflare.app_common.filters.exclude_vars import ExcludeVars
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.app_common.workflows.fedavg import FedAvg

from fl.integrations.nvflare import (
    NVFlareJobError,
    SecAggController,
    SecAggExecutor,
    SiteKeyFiles,
    add_secure_aggregation,
)
from secagg import Adversary, GraphKind, SessionPolicy

TRAINER = Path(__file__).parent / "job" / "site_trainer.py"


def make_recipe(**changes: Any) -> NumpyFedAvgRecipe:
    arguments: dict[str, Any] = {
        "name": "job", "model": [0.0] * 6, "min_clients": 2, "num_rounds": 4, "train_script": str(TRAINER),
    }  # fmt: skip
    return NumpyFedAvgRecipe(**(arguments | changes))


def exported(recipe: NumpyFedAvgRecipe, folder: Path) -> tuple[Any, Any, list[str]]:
    recipe.export(str(folder))
    app = folder / "job" / "app"
    files = sorted(str(path.relative_to(app / "custom")) for path in (app / "custom").rglob("*.py"))
    server, client = (
        json.loads((app / "config" / f"config_fed_{side}.json").read_text()) for side in ("server", "client")
    )
    return server, client, files


def test_a_recipe_keeps_its_arguments(tmp_path: Path) -> None:
    recipe = make_recipe(stop_cond="loss <= 0.5", patience=2, exclude_vars="bias")
    add_secure_aggregation(recipe, clip=2.0, max_steps=64, dropout=0.3)
    server, client, files = exported(recipe, tmp_path)
    (workflow,) = server["workflows"]
    assert workflow["path"] == "fl.integrations.nvflare.controller.SecAggController"
    arguments = workflow["args"]
    assert arguments["num_rounds"] == 4
    assert arguments["stop_cond"] == "loss <= 0.5"
    assert arguments["patience"] == 2
    assert arguments["exclude_vars"] == "bias"
    assert arguments["metrics"] == ["accuracy", "loss"]
    assert (arguments["clip"], arguments["max_steps"], arguments["dropout"]) == (2.0, 64, 0.3)
    # All connected sites, and not only the job's minimum.
    assert arguments["num_clients"] is None
    assert json.loads((tmp_path / "job" / "meta.json").read_text())["min_clients"] == 2
    (executor,) = client["executors"]
    assert executor["executor"]["path"] == "fl.integrations.nvflare.executor.SecAggExecutor"
    assert "secagg_masked_input" in executor["tasks"]
    assert "secagg_trainer" in {component["id"] for component in client["components"]}
    # Installed where the job runs, not copied into it.
    assert [Path(file).name for file in files] == ["site_trainer.py"]


def test_the_exported_controller_can_be_built_again(tmp_path: Path) -> None:
    recipe = make_recipe()
    add_secure_aggregation(recipe, clip=2.0, max_steps=64, adversary=Adversary.SEMI_MALICIOUS)
    server, _, _ = exported(recipe, tmp_path)
    assert isinstance(SecAggController(**server["workflows"][0]["args"]), FedAvg)


def test_identities_are_put_everywhere(tmp_path: Path) -> None:
    recipe = make_recipe()
    add_secure_aggregation(
        recipe, clip=2.0, max_steps=64, adversary=Adversary.MALICIOUS, identities=SiteKeyFiles(directory_file="d.json")
    )
    server, client, _ = exported(recipe, tmp_path)
    for side in (server, client):
        (component,) = [component for component in side["components"] if component["id"] == "secagg_identities"]
        assert component["args"] == {"directory_file": "d.json"}
    assert server["workflows"][0]["args"]["identity_id"] == "secagg_identities"
    assert client["executors"][0]["executor"]["args"]["adversary"] == "malicious"


def test_sites_with_identities_ask_for_malicious_mode(tmp_path: Path) -> None:
    recipe = make_recipe()
    add_secure_aggregation(recipe, clip=2.0, max_steps=64, identities=SiteKeyFiles(), max_rounds=20, training="digits")
    server, client, _ = exported(recipe, tmp_path)
    controller = SecAggController(**server["workflows"][0]["args"])
    executor = SecAggExecutor(**client["executors"][0]["executor"]["args"])
    for policy in (controller._policy, executor._policy):
        assert policy == SessionPolicy(adversary=Adversary.MALICIOUS, min_inputs=3)
    assert (executor.max_rounds, executor.training, executor.record) == (20, "digits", None)


def test_without_identities_the_server_is_believed_unless_the_job_says_otherwise(tmp_path: Path) -> None:
    recipe = make_recipe()
    add_secure_aggregation(recipe, clip=2.0, max_steps=64, graph=GraphKind.SPARSE, corrupt=0.1, min_inputs=5)
    server, client, _ = exported(recipe, tmp_path)
    asked = SessionPolicy(adversary=Adversary.HONEST_BUT_CURIOUS, min_inputs=5, graph=GraphKind.SPARSE, corrupt=0.1)
    assert SecAggController(**server["workflows"][0]["args"])._policy == asked
    assert SecAggExecutor(**client["executors"][0]["executor"]["args"])._policy == asked


@pytest.mark.parametrize(
    ("graph", "stored"), [("auto", "auto"), (GraphKind.COMPLETE, "complete"), ("sparse", "sparse")]
)
def test_names_and_enums_are_the_same_in_a_job(tmp_path: Path, graph: Any, stored: str) -> None:
    recipe = make_recipe()
    add_secure_aggregation(recipe, clip=2.0, max_steps=64, graph=graph, adversary="semi-malicious")
    server, client, _ = exported(recipe, tmp_path)
    arguments = server["workflows"][0]["args"]
    assert arguments.get("graph", "auto") == stored
    assert SecAggController(**arguments)._policy.adversary is Adversary.SEMI_MALICIOUS
    policy = SecAggExecutor(**client["executors"][0]["executor"]["args"])._policy
    assert policy.graph is (GraphKind.SPARSE if stored == "sparse" else GraphKind.COMPLETE)


@pytest.mark.parametrize("first", ["filter", "secure"])
def test_filters_stay_where_the_recipe_put_them(tmp_path: Path, first: str) -> None:
    """The executor applies them before the masking, in either order of the calls."""
    recipe = make_recipe()
    steps = [
        lambda: recipe.add_client_output_filter(ExcludeVars("x"), tasks=["train"]),
        lambda: add_secure_aggregation(recipe, clip=2.0, max_steps=64),
    ]
    for step in steps if first == "filter" else steps[::-1]:
        step()
    _, client, _ = exported(recipe, tmp_path)
    (chain,) = client["task_result_filters"]
    assert chain["tasks"] == ["train"]


@pytest.mark.parametrize(
    ("recipe", "arguments", "reason"),
    [
        ({"aggregation_weights": {"site-1": 2.0}}, {}, "weights by site"),
        ({}, {"clip": 0.0}, "clipping bound"),
        ({}, {"max_steps": 0}, "at least one step"),
        ({}, {"adversary": Adversary.MALICIOUS}, "identities"),
        ({}, {"round_timeout": 0}, "above 0 seconds"),
        ({}, {"tresholt": 2}, "tresholt"),
        ({}, {"metrics": ["a", "a"]}, "distinct names"),
        ({}, {"max_rounds": 0}, "max_rounds must be at least 1"),
        ({"exclude_vars": "("}, {}, "regular expression"),
    ],
)
def test_invalid_arguments_are_refused_before_the_recipe_is_changed(recipe: Any, arguments: Any, reason: str) -> None:
    made = make_recipe(**recipe)
    with pytest.raises(NVFlareJobError, match=reason):
        add_secure_aggregation(made, **({"clip": 1.0, "max_steps": 64} | arguments))
    job = getattr(made, "_job", None) or made.job
    (workflow,) = job._deploy_map["server"].app_config.workflows
    assert type(workflow.controller) is FedAvg


def test_a_recipe_is_made_secure_once() -> None:
    recipe = make_recipe()
    add_secure_aggregation(recipe, clip=1.0, max_steps=64)
    with pytest.raises(NVFlareJobError, match="already"):
        add_secure_aggregation(recipe, clip=1.0, max_steps=64)


def test_other_controllers_are_refused() -> None:
    from nvflare.app_common.workflows.cyclic import Cyclic

    recipe = make_recipe()
    job = getattr(recipe, "_job", None) or recipe.job
    job._deploy_map["server"].app_config.workflows[0].controller = Cyclic(num_clients=2)
    with pytest.raises(NVFlareJobError, match="Cyclic cannot be made secure"):
        add_secure_aggregation(recipe, clip=1.0, max_steps=64)


def test_an_object_that_is_not_a_recipe_is_refused() -> None:
    with pytest.raises(NVFlareJobError, match="not a recipe"):
        add_secure_aggregation(object(), clip=1.0, max_steps=64)
