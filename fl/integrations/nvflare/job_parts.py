"""Check the parts of a job that is made secure: its controller, its trainer, and the workflows beside them.

Parts that cannot be made secure are refused while the job is made, not while sites train; the error names an
alternative.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fl.integrations.nvflare._nvflare import (
    CrossSiteModelEval,
    Executor,
    FedAvg,
    FullModelShareableGenerator,
    InTimeAccumulateWeightedAggregator,
    ScatterAndGather,
    get_component_init_parameters,
)
from fl.integrations.nvflare.errors import NVFlareJobError

TRAINERS = frozenset(
    {
        "nvflare.app_common.ccwf.comps.np_trainer.NPTrainer",
        "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "nvflare.app_common.executors.client_api_launcher_executor.ClientAPILauncherExecutor",
        "nvflare.app_common.executors.in_process_client_api_executor.InProcessClientAPIExecutor",
        "nvflare.app_common.executors.learner_executor.LearnerExecutor",
        "nvflare.app_common.executors.model_learner_executor.ModelLearnerExecutor",
        "nvflare.app_common.np.np_trainer.NPTrainer",
        "nvflare.app_opt.pt.client_api_launcher_executor.PTClientAPILauncherExecutor",
        "nvflare.app_opt.pt.in_process_client_api_executor.PTInProcessClientAPIExecutor",
        "nvflare.app_opt.tf.client_api_launcher_executor.TFClientAPILauncherExecutor",
        "nvflare.app_opt.tf.in_process_client_api_executor.TFInProcessClientAPIExecutor",
    }
)
"""NVFlare's own executors that were tried; the others do not train, or not on the task's model."""

_WORKS = (
    "use a script on NVFlare's Client API (ScriptRunner, with launch_external_process=True and a command for several "
    "processes), a ModelLearner, or an Executor of your own"
)


def check_trainer(executor: Executor) -> None:
    """Raise NVFlareJobError for an executor that is not known to train under secure aggregation.

    An executor of your own is accepted; a subclass of one of NVFlare's is accepted if NVFlare's is.
    """
    theirs = next(kind for kind in type(executor).__mro__ if kind.__module__.partition(".")[0] == "nvflare")
    if theirs is not Executor and f"{theirs.__module__}.{theirs.__name__}" not in TRAINERS:
        raise NVFlareJobError(f"NVFlare's {theirs.__name__} cannot train under secure aggregation: {_WORKS}")
    mode = getattr(executor, "execution_mode", "")
    if mode == "attach":
        raise NVFlareJobError(f"a ClientAPIExecutor in the mode {mode!r} was not tried: {_WORKS}")
    exchanged = getattr(executor, "_server_expected_format", "numpy")
    if exchanged not in ("numpy", "raw"):
        raise NVFlareJobError(
            f"the job's sites exchange {getattr(exchanged, 'name', exchanged)}, but secure sums need numpy arrays: use "
            "server_expected_format=ExchangeFormat.NUMPY, the default"
        )


def check_beside(controller: object, plain_tasks: Sequence[str]) -> None:
    """Raise NVFlareJobError for a workflow beside the training that sends tasks outside ``plain_tasks``."""
    if not isinstance(controller, CrossSiteModelEval):
        raise NVFlareJobError(f"{type(controller).__name__} beside the training would see single updates: leave it out")
    submit, validate = controller._submit_model_task_name, controller._validation_task_name
    if submit and submit not in plain_tasks:
        raise NVFlareJobError(
            "cross-site evaluation asks every site for its own model, which must stay hidden: evaluate the averaged "
            "model alone, by add_final_global_evaluation(recipe) of nvflare.recipe.utils, or by "
            f"CrossSiteModelEval(submit_model_task_name=''), with plain_tasks=[{validate!r}]"
        )
    if validate not in plain_tasks:
        raise NVFlareJobError(
            f"the evaluation's task {validate!r} returns each site's metrics in the clear: if the server may see them, "
            f"give add_secure_aggregation plain_tasks=[{validate!r}]"
        )


def fedavg_arguments(controller: object, components: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `SecAggController` that does what this controller does.

    Args:
        controller: a FedAvg, or a ScatterAndGather whose aggregator is the weighted mean: NVFlare's FedOpt.
        components: the server's components, by id.

    Raises:
        NVFlareJobError: any other controller.
    """
    if type(controller) is FedAvg:
        own = _init_arguments(controller)
        return {name: value for name, value in own.items() if name not in ("args", "kwargs", "num_clients")}
    if type(controller) is ScatterAndGather:
        return _of_scatter_and_gather(controller, components)
    raise NVFlareJobError(
        f"{type(controller).__name__} cannot be made secure: sums are known to be enough for NVFlare's FedAvg, and "
        "for ScatterAndGather with a shareable generator, so use a recipe of FedAvg or FedProx, or FedOptRecipe of "
        "nvflare.app_opt.pt.recipes"
    )


def _of_scatter_and_gather(controller: ScatterAndGather, components: Mapping[str, Any]) -> dict[str, Any]:
    own = _init_arguments(controller)
    aggregator = components.get(own["aggregator_id"])
    if type(aggregator) is not InTimeAccumulateWeightedAggregator:
        raise NVFlareJobError(
            f"the aggregator {type(aggregator).__name__} needs each site's update, which nobody sees: leave it out, or "
            "use InTimeAccumulateWeightedAggregator"
        )
    settings = _init_arguments(aggregator)
    if settings.get("aggregation_weights") or not settings.get("weigh_by_local_iter", True):
        raise NVFlareJobError("weights by site need each site's update: sites are weighted by their steps")
    if isinstance(settings.get("exclude_vars"), dict) or isinstance(settings.get("expected_data_kind"), dict):
        raise NVFlareJobError("an aggregator for collections cannot be made secure: exchange one model")
    generator = components.get(own["shareable_generator_id"])
    sends = getattr(type(generator), "learnable_to_shareable", None)
    if sends is not FullModelShareableGenerator.learnable_to_shareable:
        raise NVFlareJobError(
            f"the shareable generator {type(generator).__name__} changes the sites' task, but all sites are sent "
            "the model itself: use one that overrides shareable_to_learnable alone, such as FedOpt's"
        )
    kept = ("num_rounds", "start_round", "persistor_id", "memory_gc_rounds", "ignore_result_error")
    return {name: own[name] for name in (*kept, "allow_empty_global_weights") if name in own} | {
        "task_name": own["train_task_name"],
        "exclude_vars": settings.get("exclude_vars"),
        "shareable_generator_id": own["shareable_generator_id"],
    }


def _init_arguments(component: object) -> dict[str, Any]:
    """Return a component's arguments as NVFlare's own export of jobs reads them."""
    found = {}
    for name in get_component_init_parameters(component):
        for attribute in (name, "_" + name):
            if name != "self" and attribute in vars(component):
                found[name] = vars(component)[attribute]
                break
    return found
