"""Learners as NVFlare's examples write them; each changes a model in a known way: it adds 1, in a step."""

from typing import Any

from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.learner_spec import Learner
from nvflare.app_common.abstract.model_learner import ModelLearner
from nvflare.app_common.utils.fl_model_utils import FLModelUtils


class Steps(Learner):
    """From a Shareable to a Shareable."""

    def train(self, data: Shareable, fl_ctx: Any, abort_signal: Any) -> Shareable:
        return FLModelUtils.to_shareable(stepped(FLModelUtils.from_shareable(data)))

    def initialize(self, parts: Any, fl_ctx: Any) -> None:
        pass

    def finalize(self, fl_ctx: Any) -> None:
        pass


class ModelSteps(ModelLearner):
    """From a model to a model."""

    def train(self, model: FLModel) -> FLModel:
        return stepped(model)

    def initialize(self) -> None:
        pass


def stepped(model: FLModel) -> FLModel:
    return FLModel(
        params={name: entry + 1 for name, entry in model.params.items()}, meta={"NUM_STEPS_CURRENT_ROUND": 1}
    )
