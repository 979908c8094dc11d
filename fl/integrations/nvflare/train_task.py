"""The task for a site's trainer: made on the site, and only from data that all sites got.

NVFlare gives an executor data from the server: headers, cookies, `FLModel.meta`, the peer's context.  A lying server
could set the learning rate of all sites but one to 0, so that the sum is that site's update.  So the trainer gets a
task and a context that are made here, from the announcement, which the session's keys are bound to, and from the model,
whose digest is in the announcement.  Data that a later NVFlare adds does not reach the trainer either.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from fl.integrations.nvflare import messages
from fl.integrations.nvflare._nvflare import (
    FLContext,
    FLContextKey,
    FLModel,
    FLModelUtils,
    MetaKey,
    ParamsType,
    ReservedHeaderKey,
    ReturnCode,
    Shareable,
    from_shareable,
)
from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.errors import ModelError, TrainingFailedError
from fl.integrations.nvflare.model_encoding import Model, SiteUpdate, as_model, digest
from secagg import Round


def received_model(shareable: Shareable, announcement: TaskAnnouncement) -> Model:
    """Remove and return the model in the task's data; raise ModelError unless it is the announced one."""
    try:
        model = as_model(FLModelUtils.from_shareable(shareable).params)
    except (ValueError, TypeError):
        raise ModelError("the task's data holds no model that NVFlare can read") from None
    # NVFlare keeps the data until the task is done; the model must not be in memory twice while the site trains.
    for key in shareable.keys() - {ReservedHeaderKey.HEADERS}:
        del shareable[key]
    if digest(model) != announcement.model_digest:
        raise ModelError(
            "the model that arrived is not the one that was announced to all sites: the server may be lying, "
            "or a filter for incoming tasks changes it"
        )
    if announcement.vector_length(model) != announcement.params.vector_length:
        raise ModelError("the announced vector length does not fit this model")
    return model


def train_task(announcement: TaskAnnouncement, model: Model, name: str) -> Shareable:
    """Return the trainer's task: a copy of the announced model, the round, and the announced meta.

    Args:
        announcement: the round.
        model: the announced model.
        name: the task's name.
    """
    task = FLModelUtils.to_shareable(
        FLModel(
            params_type=ParamsType.FULL,
            params=as_model(model),
            start_round=announcement.start_round,
            current_round=announcement.round,
            total_rounds=announcement.total_rounds,
            meta=dict(announcement.meta),
        )
    )
    task.set_header(ReservedHeaderKey.TASK_NAME, name)
    # Some trainers need it. The server's own value is a text of the server's choice.
    task.set_header(ReservedHeaderKey.TASK_ID, uuid.uuid4().hex)
    return task


def site_context(fl_ctx: FLContext, task: Shareable) -> FLContext:
    """Return a context like the one that NVFlare began this task with, without data that came with the task.

    Args:
        fl_ctx: NVFlare's context; the server sets the peer's context, and the task's data and id in it.
        task: the trainer's task.
    """
    context = fl_ctx.get_engine().new_context()
    # Empty, but present: trainers and filters ask it for names.
    context.set_peer_context(FLContext())
    # NVFlare uses the name of the task that this one is part of.
    name = messages.TASKS[Round.MASKED_INPUT_COLLECTION]
    context.set_prop(FLContextKey.TASK_NAME, name, private=True, sticky=False)
    context.set_prop(FLContextKey.TASK_ID, task.get_header(ReservedHeaderKey.TASK_ID), private=True, sticky=False)
    context.set_prop(FLContextKey.TASK_DATA, task, private=True, sticky=False)
    return context


def site_update(result: object) -> SiteUpdate:
    """Return a trainer's update.

    Raises:
        TrainingFailedError: the trainer returned no result, or an error's code.
        ModelError: its result is not an update.
    """
    if not isinstance(result, Shareable):
        raise TrainingFailedError("the trainer returned no result")
    if (code := result.get_return_code()) not in (None, ReturnCode.OK):
        raise TrainingFailedError(f"the trainer failed: {code}")
    try:
        dxo = from_shareable(result)
        if not isinstance(dxo.meta.get(MetaKey.INITIAL_METRICS, {}), Mapping):
            # A number without a name, which some trainers report. The update is sent all the same.
            del dxo.meta[MetaKey.INITIAL_METRICS]
            dxo.update_shareable(result)
        model = FLModelUtils.from_shareable(result)
    except (ValueError, TypeError):
        raise ModelError("the trainer's result holds no model that NVFlare can read") from None
    if not isinstance(model.params, Mapping):
        raise ModelError("the trainer's result holds no model")
    metrics: Any = model.metrics
    return SiteUpdate(
        entries=model.params,
        is_difference=model.params_type == ParamsType.DIFF,
        # The same as in NVFlare's own average.
        steps=(model.meta or {}).get(MetaKey.NUM_STEPS_CURRENT_ROUND, 1),
        metrics=metrics if isinstance(metrics, Mapping) else {},
    )
