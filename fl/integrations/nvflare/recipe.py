"""Make NVFlare's recipes secure, if their server needs only means.

The interface follows NVFlare's own ``add_experiment_tracking(recipe, ...)``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fl.aggregation.planning import AdversaryName, GraphName, name_of
from fl.integrations.nvflare._nvflare import Recipe
from fl.integrations.nvflare.controller import SecAggController
from fl.integrations.nvflare.errors import NVFlareJobError
from fl.integrations.nvflare.executor import TRAINER_ID, SecAggExecutor
from fl.integrations.nvflare.identities import SiteIdentities
from fl.integrations.nvflare.job_parts import check_beside, check_trainer, fedavg_arguments
from fl.integrations.nvflare.messages import TASKS
from fl.integrations.nvflare.settings import DEFAULT_MAX_ROUNDS, DEFAULT_TRAINING
from secagg import Adversary, GraphKind

_IDENTITIES_ID = "secagg_identities"

# By default sites ask for a task two seconds after the last one, and a round has four or five tasks.
_FETCH_INTERVAL = 0.1

# These packages are installed on each site, so jobs do not contain copies of their code.
_PACKAGES = ("fl", "secagg", "transport")


def add_secure_aggregation(
    recipe: Recipe,
    *,
    clip: float | None = None,
    max_steps: int | None = None,
    metrics: Sequence[str] | None = None,
    adversary: Adversary | AdversaryName | None = None,
    identities: SiteIdentities | None = None,
    min_inputs: int | None = None,
    graph: GraphKind | GraphName = "auto",
    max_rounds: int = DEFAULT_MAX_ROUNDS,
    training: str = DEFAULT_TRAINING,
    record: str | None = None,
    plain_tasks: Sequence[str] = (),
    fetch_interval: float | None = _FETCH_INTERVAL,
    **arguments: Any,
) -> None:
    """Make a recipe's averages secure.

    The recipe's controller becomes a `SecAggController` with the same arguments.  Each executor that trains is put
    inside a `SecAggExecutor`, which applies the filters of the sites' results (clipping, noise) before the masking.
    The server and the sites need `fl`, `secagg` and `transport`.

    Args:
        recipe: a recipe of FedAvg or FedProx for any framework, or of FedOpt for torch, whose sites exchange numpy
            arrays.
        clip, max_steps: see `SecAggController`; by default they follow the sites' updates.
        metrics: see `SecAggController`; by default the recipe's ``key_metric`` and that of its ``stop_cond``.
        adversary: the adversary that rounds are safe against; sites refuse a weaker one. By default malicious with
            ``identities``, else honest-but-curious.
        identities: in malicious mode, the identities of the sites.
        min_inputs: the fewest sites in a sum that a site accepts; by default 3 with ``identities``, else 2.
        graph: see `SecAggController`.
        max_rounds, training, record: in signed modes, the most rounds that a site answers, and the place of its record;
            see `SecAggExecutor`.
        plain_tasks: see `SecAggExecutor`.
        fetch_interval: seconds after which a site asks for the next task; None keeps NVFlare's own two seconds, which
            make each round about eight seconds longer.
        arguments: other arguments of `SecAggController`.

    Raises:
        NVFlareJobError: its controller, aggregator or trainer cannot be made secure, or is secure already; a workflow
            beside it, now or added later, sends tasks outside ``plain_tasks``; or an argument is invalid.
    """
    job = _job(recipe)
    identity_id = None if identities is None else _IDENTITIES_ID
    apps = {target: app.app_config for target, app in job._deploy_map.items()}
    servers = [app for app in apps.values() if hasattr(app, "workflows")]
    sites = [app for app in apps.values() if hasattr(app, "executors")]
    if len(servers) != 1 or not servers[0].workflows or not sites:
        raise NVFlareJobError("the recipe's job has no server or no sites yet")
    # All checks come before the first change.
    arguments |= {
        "clip": clip,
        "max_steps": max_steps,
        "metrics": _default_metrics(recipe, servers[0].components) if metrics is None else metrics,
        "adversary": name_of(adversary),
        "min_inputs": min_inputs,
        "graph": name_of(graph),
        "identity_id": identity_id,
    }
    workflow, *beside = servers[0].workflows
    controller = _secure_controller(workflow.controller, servers[0].components, arguments)
    for other in beside:
        check_beside(other.controller, plain_tasks)
    wrapped = [_training_executor(app) for app in sites]
    executors = [
        SecAggExecutor(
            train_task=controller.task_name,
            adversary=controller.adversary,
            min_inputs=controller.min_inputs,
            identity_id=identity_id,
            plain_tasks=plain_tasks,
            graph=controller.graph,
            corrupt=controller.corrupt,
            max_rounds=max_rounds,
            training=training,
            record=record,
        )
        for _ in sites
    ]
    workflow.controller = controller
    _check_later_ones(servers[0], plain_tasks)
    if fetch_interval is not None:
        servers[0].additional_params.setdefault("server", {}).setdefault("task_request_interval", fetch_interval)
    for app, definition, executor in zip(sites, wrapped, executors, strict=True):
        app.add_component(TRAINER_ID, definition.executor)
        definition.executor = executor
        definition.tasks = list(dict.fromkeys((*definition.tasks, *TASKS.values())))
        if fetch_interval is not None:
            app.additional_params.setdefault("default_task_fetch_interval", fetch_interval)
    if identities is not None:
        for app in (*servers, *sites):
            app.add_component(_IDENTITIES_ID, identities)
    job.set_app_packages(sorted({*job.job.app_packages, *_PACKAGES}))


def _job(recipe: Recipe) -> Any:
    """Return the recipe's job with its sites; NVFlare has no other way to get it."""
    prepare = getattr(recipe, "_ensure_client_apps_prepared", None)
    if prepare is not None:
        prepare()
    # It was public before 2.8.
    job = getattr(recipe, "_job", None) or getattr(recipe, "job", None)
    if job is None or not hasattr(job, "_deploy_map"):
        raise NVFlareJobError(f"{type(recipe).__name__} is not a recipe with a job")
    return job


def _default_metrics(recipe: Recipe, components: Mapping[str, Any]) -> list[str]:
    """Return the metrics that the recipe, or the widget that selects its best model, uses."""
    stop_cond = getattr(recipe, "stop_cond", None)
    named = [getattr(recipe, "key_metric", None), stop_cond.split()[0] if stop_cond else None]
    named += [getattr(component, "key_metric", None) for component in components.values()]
    return list(dict.fromkeys(name for name in named if name))


def _secure_controller(
    controller: object, components: Mapping[str, Any], arguments: dict[str, Any]
) -> SecAggController:
    if isinstance(controller, SecAggController):
        raise NVFlareJobError("the recipe is secure already: call add_secure_aggregation once")
    try:
        return SecAggController(**(fedavg_arguments(controller, components) | arguments))
    except TypeError as error:
        raise NVFlareJobError(f"not an argument of SecAggController: {error}") from None


def _check_later_ones(server: Any, plain_tasks: Sequence[str]) -> None:
    """Check workflows when they are added later, so that sites need not refuse their tasks."""
    add = server.add_workflow

    def checked(component_id: str, controller: object) -> Any:
        check_beside(controller, plain_tasks)
        return add(component_id, controller)

    server.add_workflow = checked


def _training_executor(app: Any) -> Any:
    """Return the definition of the one executor that trains."""
    if TRAINER_ID in app.components:
        raise NVFlareJobError(f"the job has a component with the id {TRAINER_ID} already")
    definitions = [definition for definition in app.executors if {"train", "*"} & set(definition.tasks)]
    if len(definitions) != 1:
        raise NVFlareJobError(f"a site has {len(definitions)} executors that train, but needs exactly one")
    check_trainer(definitions[0].executor)
    return definitions[0]
