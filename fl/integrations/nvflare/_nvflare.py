"""All names of NVFlare that this adapter uses, in one place: if NVFlare moves one, the import fails here."""

import importlib
import logging
from typing import Any

TESTED_VERSIONS = ("2.7.3", "2.8.3", "2.9.0")
"""The releases of NVFlare that pass the tests."""

# Each is imported, called or overridden. FedAvg calls _get_aggregated_result to get the average from a subclass.
EXTENSION_POINTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("nvflare.apis.client_engine_spec", "ClientEngineSpec", ("new_context",)),
    ("nvflare.apis.controller_spec", "Task", ()),
    ("nvflare.apis.dxo", "DXO", ("update_shareable",)),
    ("nvflare.apis.dxo", "from_shareable", ()),
    ("nvflare.apis.dxo", "DataKind", ("WEIGHTS", "WEIGHT_DIFF")),
    ("nvflare.apis.dxo", "MetaKey", ("INITIAL_METRICS", "NUM_STEPS_CURRENT_ROUND")),
    ("nvflare.apis.event_type", "EventType", ("END_RUN",)),
    ("nvflare.apis.executor", "Executor", ("execute",)),
    ("nvflare.apis.fl_component", "FLComponent", ("handle_event", "fire_event")),
    ("nvflare.apis.fl_constant", "FLContextKey", ("RUNNER", "SHAREABLE", "TASK_DATA", "TASK_ID", "TASK_NAME")),
    ("nvflare.apis.fl_constant", "FilterKey", ("IN", "OUT", "DELIMITER")),
    ("nvflare.apis.fl_constant", "ReturnCode", ("OK", "EXECUTION_EXCEPTION", "SERVICE_UNAVAILABLE", "TASK_UNKNOWN")),
    (
        "nvflare.apis.fl_context",
        "FLContext",
        ("get_engine", "get_identity_name", "get_job_id", "get_peer_context", "set_peer_context"),
    ),
    ("nvflare.apis.shareable", "ReservedHeaderKey", ("HEADERS", "TASK_ID", "TASK_NAME")),
    ("nvflare.apis.shareable", "Shareable", ("get_return_code", "get_header", "set_header", "add_cookie")),
    ("nvflare.apis.shareable", "make_reply", ()),
    ("nvflare.apis.utils.task_utils", "apply_filters", ()),
    ("nvflare.app_common.abstract.fl_model", "FLModel", ()),
    ("nvflare.app_common.abstract.fl_model", "ParamsType", ("FULL", "DIFF")),
    ("nvflare.app_common.abstract.model", "ModelLearnableKey", ("WEIGHTS",)),
    ("nvflare.app_common.abstract.model", "make_model_learnable", ()),
    ("nvflare.app_common.aggregators", "InTimeAccumulateWeightedAggregator", ()),
    (
        "nvflare.app_common.app_constant",
        "AppConstants",
        ("CURRENT_ROUND", "CONTRIBUTION_ROUND", "GLOBAL_MODEL", "NUM_ROUNDS"),
    ),
    ("nvflare.app_common.app_event_type", "AppEventType", ("BEFORE_CONTRIBUTION_ACCEPT", "ROUND_STARTED")),
    (
        "nvflare.app_common.shareablegenerators.full_model_shareable_generator",
        "FullModelShareableGenerator",
        ("learnable_to_shareable", "shareable_to_learnable"),
    ),
    ("nvflare.app_common.utils.fl_model_utils", "FLModelUtils", ("to_shareable", "from_shareable")),
    ("nvflare.app_common.workflows.cross_site_model_eval", "CrossSiteModelEval", ()),
    (
        "nvflare.app_common.workflows.fedavg",
        "FedAvg",
        (
            "run",
            "send_model",
            "_get_aggregated_result",
            "update_model",
            "sample_clients",
            "set_fl_context",
            "event",
            "send",
            "cancel_task",
            "get_client_disconnect_time",
            "process_result_of_unknown_task",
            "panic",
        ),
    ),
    ("nvflare.app_common.workflows.scatter_and_gather", "ScatterAndGather", ()),
    ("nvflare.fuel.utils.class_utils", "get_component_init_parameters", ()),
    ("nvflare.fuel.utils.fobs", "FOBSContextKey", ("PASS_THROUGH", "ABORT_SIGNAL")),
    ("nvflare.fuel.utils.fobs", "dumps", ()),
    ("nvflare.fuel.utils.fobs", "loads", ()),
    ("nvflare.fuel.utils.fobs.decomposers.via_downloader", "LazyDownloadRef", ()),
    ("nvflare.job_config.api", "FedJob", ("set_app_packages",)),
    ("nvflare.recipe.spec", "Recipe", ("export", "add_client_output_filter")),
)


def missing_extension_points() -> list[str]:
    """Return the dotted names of the extension points that this NVFlare lacks."""
    missing = []
    for module_name, name, attributes in EXTENSION_POINTS:
        try:
            found: Any = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError):
            missing.append(f"{module_name}.{name}")
            continue
        missing += [f"{module_name}.{name}.{attribute}" for attribute in attributes if not hasattr(found, attribute)]
    return missing


def logger(module: str) -> logging.Logger:
    """Return a logger that NVFlare 2.7 shows on its console: besides its own it shows loggers below ``custom``."""
    return logging.getLogger(f"custom.{module}")


def version() -> str:
    """Return NVFlare's version."""
    return str(importlib.import_module("nvflare").__version__)


try:
    importlib.import_module("nvflare")
except ImportError as error:
    raise ImportError("NVFlare is not installed: pip install '.[nvflare]' in the repository's folder") from error
if _missing := missing_extension_points():
    raise ImportError(
        f"NVFlare {version()} does not have all that this integration needs (tested: {', '.join(TESTED_VERSIONS)}); "
        f"it lacks {', '.join(_missing)}"
    )

from nvflare.apis.controller_spec import Task  # noqa: E402
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable  # noqa: E402
from nvflare.apis.event_type import EventType  # noqa: E402
from nvflare.apis.executor import Executor  # noqa: E402
from nvflare.apis.fl_component import FLComponent  # noqa: E402
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode  # noqa: E402
from nvflare.apis.fl_context import FLContext  # noqa: E402
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply  # noqa: E402
from nvflare.apis.utils.task_utils import apply_filters  # noqa: E402
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType  # noqa: E402
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable  # noqa: E402
from nvflare.app_common.aggregators import InTimeAccumulateWeightedAggregator  # noqa: E402
from nvflare.app_common.app_constant import AppConstants  # noqa: E402
from nvflare.app_common.app_event_type import AppEventType  # noqa: E402
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import (  # noqa: E402
    FullModelShareableGenerator,
)
from nvflare.app_common.utils.fl_model_utils import FLModelUtils  # noqa: E402
from nvflare.app_common.workflows.cross_site_model_eval import CrossSiteModelEval  # noqa: E402
from nvflare.app_common.workflows.fedavg import FedAvg  # noqa: E402
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather  # noqa: E402
from nvflare.fuel.utils import fobs  # noqa: E402
from nvflare.fuel.utils.class_utils import get_component_init_parameters  # noqa: E402
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef  # noqa: E402
from nvflare.recipe.spec import Recipe  # noqa: E402

__all__ = [
    "DXO",
    "AppConstants",
    "AppEventType",
    "CrossSiteModelEval",
    "DataKind",
    "EventType",
    "Executor",
    "FLComponent",
    "FLContext",
    "FLContextKey",
    "FLModel",
    "FLModelUtils",
    "FedAvg",
    "FilterKey",
    "FullModelShareableGenerator",
    "InTimeAccumulateWeightedAggregator",
    "MetaKey",
    "ModelLearnableKey",
    "ParamsType",
    "Recipe",
    "ReservedHeaderKey",
    "ReturnCode",
    "ScatterAndGather",
    "Shareable",
    "Task",
    "apply_filters",
    "from_shareable",
    "get_component_init_parameters",
    "logger",
    "make_model_learnable",
    "make_reply",
    "materialize",
]


def materialize(shareable: Shareable, fl_ctx: FLContext, abort_signal: Any) -> None:
    """Load the arrays of a task's data or result that NVFlare passes as references.

    For a trainer in a separate process NVFlare passes references on, and the arrays bypass the executor.  The only way
    to get them that works in all tested releases is that of their SwarmClientController: encode, and decode without
    passing on.
    """
    props = {fobs.FOBSContextKey.PASS_THROUGH: False, fobs.FOBSContextKey.ABORT_SIGNAL: abort_signal}
    for key in shareable.keys() - {ReservedHeaderKey.HEADERS}:
        if _holds_references(shareable[key]):
            cell = fl_ctx.get_engine().get_cell()
            data = fobs.dumps(shareable[key], fobs_ctx=cell.get_fobs_context())
            shareable[key] = fobs.loads(data, fobs_ctx=cell.get_fobs_context(props=props))


def _holds_references(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_references, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_references, value))
    return isinstance(value, LazyDownloadRef)
