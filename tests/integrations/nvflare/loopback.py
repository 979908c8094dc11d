"""Sites and server in one process: real executors, and every task and result through NVFlare's own encoding."""

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs

from fl.aggregation.scales import Scales
from fl.integrations.nvflare import SecAggExecutor, messages
from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.model_encoding import ModelEncoding, as_model, digest
from fl.integrations.nvflare.server_session import Result, TaskReport, run_session
from secagg import Adversary, Round, plan
from transport.driver import Deadlines

# As NVFlare's own processes do when they start.
flare_decomposers.register()
common_decomposers.register()

JOB = "job-1"
Train = Callable[[dict[str, Any], FLModel], FLModel]


class Trainer(Executor):
    """Any trainer: its training is an argument."""

    def __init__(self, train: Callable[[FLModel], FLModel | Shareable]) -> None:
        super().__init__()
        self.train = train
        self.calls = 0

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        self.calls += 1
        result = self.train(FLModelUtils.from_shareable(shareable))
        return result if isinstance(result, Shareable) else FLModelUtils.to_shareable(result)


class Site:
    """One site: its executor, its components, its contexts."""

    def __init__(
        self, name: str, train: Callable[[FLModel], FLModel | Shareable], folder: Path, /, *, job: str = JOB,
        data_filters: Sequence[Any] = (), result_filters: Sequence[Any] = (), site_filters: Sequence[Any] = (),
        components: Mapping[str, Any] | None = None, **arguments: Any,
    ) -> None:  # fmt: skip
        self.name = name
        self.trainer = Trainer(train)
        self.executor = SecAggExecutor(**arguments)
        known = {"secagg_trainer": self.trainer} | dict(components or {})
        workspace = SimpleNamespace(get_site_config_dir=lambda: str(folder / name))
        engine = SimpleNamespace(
            get_component=known.get,
            get_workspace=lambda: workspace,
            new_context=lambda: self._contexts.new_context(),  # type: ignore[has-type]
        )
        runner = SimpleNamespace(
            task_data_filters={"train/in": list(data_filters)}, task_result_filters={"train/out": list(result_filters)}
        )
        policy = SimpleNamespace(task_result_filters={"out": list(site_filters)})
        props = {FLContextKey.RUNNER: runner, FLContextKey.SCOPE_OBJECT: policy}
        self._contexts = FLContextManager(engine, name, job, {}, props)
        self.results: list[bytes] = []

    def context(self) -> FLContext:
        return self._contexts.new_context()

    def do(self, task: str, data: bytes) -> Shareable:
        """Run a task as received from the wire; return its result as sent."""
        result = self.executor.execute(task, fobs.loads(data), self.context(), Signal())
        self.results.append(fobs.dumps(result))
        return fobs.loads(self.results[-1])


class LoopbackCourier:
    """A courier that does each task when its result is asked for.

    Args:
        announcement: the round's announcement.
        model: the model that sites train on.
        sites: the sites by name.
        leaving: the round in which a site fails, or is silent.
        told: the replaced message to a site, by site and round.
    """

    def __init__(
        self,
        announcement: TaskAnnouncement,
        model: FLModel,
        sites: Mapping[str, Site],
        leaving: Mapping[str, tuple[Round, str]] | None = None,
        other_models: Mapping[str, FLModel] | None = None,
    ) -> None:
        self.announcement, self.model, self.sites = announcement, model, sites
        self.leaving, self.other_models = leaving or {}, other_models or {}
        self.now = 0.0
        self.stopped = False
        self.sent: dict[tuple[str, Round], bytes] = {}
        self._due: deque[tuple[str, Round]] = deque()

    def announce(self, site: str) -> None:
        self._add(site, Round.ADVERTISE_KEYS, messages.announcing(self.announcement.to_bytes()))

    def send(self, site: str, round_: Round, message: bytes) -> None:
        trains = round_ is Round.MASKED_INPUT_COLLECTION
        data = FLModelUtils.to_shareable(self.other_models.get(site, self.model)) if trains else Shareable()
        self._add(site, round_, messages.put_message(data, message))

    def _add(self, site: str, round_: Round, data: Shareable) -> None:
        self.sent[site, round_] = fobs.dumps(data)
        self._due.append((site, round_))

    def next_result(self, timeout: float) -> Result | None:
        if not self._due:
            self.now += timeout
            return None
        name, round_ = self._due.popleft()
        at, how = self.leaving.get(name, (None, ""))
        if at is round_:
            return Result(name, None) if how == "fails" else None
        result = self.sites[name].do(messages.TASKS[round_], self.sent[name, round_])
        return Result(name, messages.take_message(result), messages.refusal_reason(result))

    def is_gone(self, site: str) -> bool:
        return self.leaving.get(site, (None, ""))[1] == "gone"

    def cancel(self, site: str) -> None:
        self._due = deque(item for item in self._due if item[0] != site)

    def run(self, **arguments: Any) -> TaskReport:
        return run_session(self.announcement, self, Deadlines(), clock=lambda: self.now, **arguments)


def encoding(*, clip: float = 2.0, max_steps: int = 64, num_entries: int = 2, **changes: Any) -> ModelEncoding:
    """Return an encoding for three sites, or the number in `announce`; the initial model has two averaged entries."""
    arguments = {
        "num_sites": 3, "scales": Scales((clip,) * num_entries, max_steps), "value_bits": 24, "metrics": ("accuracy",),
        "metric_bound": 10.0, "excluded": (),
    }  # fmt: skip
    return ModelEncoding(**(arguments | changes))


def announce(
    model: FLModel, known: Mapping[str, Site], adversary: Adversary = Adversary.HONEST_BUT_CURIOUS, **changes: Any
) -> TaskAnnouncement:
    arrays = as_model(model.params)
    chosen = dataclasses.replace(changes.pop("encoding", encoding()), num_sites=len(known))
    arguments = {
        "job_id": JOB,
        "round": model.current_round,
        "start_round": model.start_round,
        "total_rounds": model.total_rounds,
        "meta": tuple(sorted(model.meta.items())),
        "sites": tuple(sorted(known)),
        "params": plan(
            num_clients=len(known),
            vector_length=chosen.vector_length(arrays),
            value_bits=chosen.value_bits,
            adversary=adversary,
        ).parameters,
        "encoding": chosen,
        "model_digest": digest(arrays),
        "nonce": b"nonce",
    }
    return TaskAnnouncement(**(arguments | changes))


def initial_model() -> FLModel:
    rng = np.random.default_rng(5)
    params = {
        "weight": rng.normal(size=(4, 3)).astype(np.float32),
        "bias": rng.normal(size=3),
        "counter": np.array(7, dtype=np.int64),
    }
    return FLModel(params=params, current_round=3, total_rounds=5)
