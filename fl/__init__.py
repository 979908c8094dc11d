"""Federated learning on PyTorch, with secure aggregation.

A program may use these names, and the public names of `fl.personalization`, `fl.report`, `fl.watch`, `fl.encrypted` and
the adapters in `fl.integrations`. Everything else may change without notice. A name is loaded when it is first used,
since torch takes seconds and the adapters do not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fl.errors import AbortedError, ConfigError, DataError, EngineError, FLError

if TYPE_CHECKING:
    from fl.aggregation.api import PlainAggregator
    from fl.aggregation.secure import SecureAggregator
    from fl.config.config_file import read_config_file
    from fl.config.privacy import Privacy
    from fl.config.run_config import DataSettings, Protocol, RunConfig
    from fl.data import Dataset, load_dataset
    from fl.data.partition import partition
    from fl.engines import Resources
    from fl.federated_training import FederatedTraining, federated, personalize
    from fl.learning.models import build_model
    from fl.learning.own_code import make_dataset, make_model
    from fl.learning.parameter_layout import ParameterLayout
    from fl.learning.settings import Local, Personal, ServerOptimization
    from fl.learning.task import Task
    from fl.learning.training import evaluate, train
    from fl.runs.checkpoint import RunFolder
    from fl.runs.history import History
    from fl.runs.personal_scores import PersonalScores
    from fl.runs.records import RoundRecord
    from fl.runs.rounds import FederatedRun
    from fl.studies.api import study

__all__ = [
    "AbortedError",
    "ConfigError",
    "DataError",
    "DataSettings",
    "Dataset",
    "EngineError",
    "FLError",
    "FederatedRun",
    "FederatedTraining",
    "History",
    "Local",
    "ParameterLayout",
    "Personal",
    "PersonalScores",
    "PlainAggregator",
    "Privacy",
    "Protocol",
    "Resources",
    "RoundRecord",
    "RunConfig",
    "RunFolder",
    "SecureAggregator",
    "ServerOptimization",
    "Task",
    "build_model",
    "evaluate",
    "federated",
    "load_dataset",
    "make_dataset",
    "make_model",
    "partition",
    "personalize",
    "read_config_file",
    "study",
    "train",
]

_MODULES = {
    "DataSettings": "fl.config.run_config",
    "Dataset": "fl.data",
    "FederatedRun": "fl.runs.rounds",
    "FederatedTraining": "fl.federated_training",
    "History": "fl.runs.history",
    "Local": "fl.learning.settings",
    "ParameterLayout": "fl.learning.parameter_layout",
    "Personal": "fl.learning.settings",
    "PersonalScores": "fl.runs.personal_scores",
    "PlainAggregator": "fl.aggregation.api",
    "Privacy": "fl.config.privacy",
    "Protocol": "fl.config.run_config",
    "Resources": "fl.engines",
    "RoundRecord": "fl.runs.records",
    "RunConfig": "fl.config.run_config",
    "RunFolder": "fl.runs.checkpoint",
    "SecureAggregator": "fl.aggregation.secure",
    "ServerOptimization": "fl.learning.settings",
    "Task": "fl.learning.task",
    "build_model": "fl.learning.models",
    "evaluate": "fl.learning.training",
    "federated": "fl.federated_training",
    "load_dataset": "fl.data",
    "make_dataset": "fl.learning.own_code",
    "make_model": "fl.learning.own_code",
    "partition": "fl.data.partition",
    "personalize": "fl.federated_training",
    "read_config_file": "fl.config.config_file",
    "study": "fl.studies.api",
    "train": "fl.learning.training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fl' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
