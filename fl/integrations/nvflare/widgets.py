"""NVFlare's components that a job adds to FedAvg: they see the mean as one contribution."""

from collections.abc import Mapping
from typing import Any

from fl.integrations.nvflare._nvflare import (
    DXO,
    AppConstants,
    AppEventType,
    DataKind,
    FLContext,
    FLContextKey,
    FLModel,
    MetaKey,
    ModelLearnableKey,
    make_model_learnable,
)
from fl.integrations.nvflare.model_encoding import MeanUpdate


def tell_widgets(controller: Any, mean: MeanUpdate) -> None:
    """Show the mean as one contribution to a controller's widgets (to select the best model, say)."""
    if not mean.metrics:
        return
    meta = {MetaKey.INITIAL_METRICS: mean.metrics, MetaKey.NUM_STEPS_CURRENT_ROUND: mean.total_steps}
    shareable = DXO(DataKind.WEIGHT_DIFF, data=mean.differences, meta=meta).to_shareable()
    shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, controller.current_round)
    mean_of_sites = FLContext()
    mean_of_sites.set_prop(FLContextKey.SHAREABLE, shareable, private=True, sticky=False)
    before = controller.fl_ctx.get_peer_context()
    controller.fl_ctx.set_peer_context(mean_of_sites)
    try:
        controller.event(AppEventType.BEFORE_CONTRIBUTION_ACCEPT)
    finally:
        if before is not None:
            controller.fl_ctx.set_peer_context(before)


def generated(controller: Any, model: FLModel, mean: FLModel) -> Mapping[str, Any]:
    """Return the next model's entries, as the controller's shareable generator makes them from the mean."""
    generator = controller.get_component(controller.shareable_generator_id)
    before = make_model_learnable(dict(model.params), model.meta or {})
    controller.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, before, private=True, sticky=True)
    shareable = DXO(DataKind.WEIGHT_DIFF, data=mean.params).to_shareable()
    made: Mapping[str, Any] = generator.shareable_to_learnable(shareable, controller.fl_ctx)
    # Without weights the generator has ended the job.
    weights: Mapping[str, Any] = made.get(ModelLearnableKey.WEIGHTS, {})
    return weights
