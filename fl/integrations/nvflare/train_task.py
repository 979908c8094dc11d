"""The task that a site's trainer gets: made on the site, of nothing but what all sites were told.

What NVFlare hands an executor is the server's word: headers, cookies, `FLModel.meta`, the peer's context.  A server
could tell one site to train at another learning rate than the others, whose updates are then nothing, and the sum is
that site's.  So the trainer gets a task and a context that were made here, of the announcement, which is bound into the
session's keys, and of the model, whose digest is in it.  What NVFlare adds some day does not reach the trainer either.
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
from fl.integrations.nvflare.announcement import Announcement
from fl.integrations.nvflare.errors import ModelError
from fl.integrations.nvflare.model_encoding import Model, SiteUpdate, as_model, digest
from secagg import Round


def received_model(shareable: Shareable, announcement: Announcement) -> Model:
    """The model that the server sent, taken out of the task's data; ModelError unless it is the announced one."""
    try:
        model = as_model(FLModelUtils.from_shareable(shareable).params)
    except (ValueError, TypeError):
        raise ModelError("the task's data holds no model that NVFlare can read") from None
    # NVFlare holds the data until the task is done; the model is not to be held twice while the site trains.
    for key in shareable.keys() - {ReservedHeaderKey.HEADERS}:
        del shareable[key]
    if digest(model) != announcement.model_digest:
        raise ModelError(
            "the model that arrived is not the one that was announced to all sites: the server may be lying, "
            "or a filter for incoming tasks changes it"
        )
    if announcement.encoding.vector_length(model) != announcement.params.vector_length:
        raise ModelError("the announced vector has another length than this model's")
    return model


def train_task(announcement: Announcement, model: Model, name: str) -> Shareable:
    """The trainer's task: the announced model, which is copied, the round, and the announced meta.

    Args:
        announcement: the round.
        model: the announced one.
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
    # Some trainers are told apart by it. The server's own is a text of the server's choice.
    task.set_header(ReservedHeaderKey.TASK_ID, uuid.uuid4().hex)
    return task


def site_context(fl_ctx: FLContext, task: Shareable) -> FLContext:
    """A context like the one that NVFlare began this task with: nothing in it came with the task.

    Args:
        fl_ctx: NVFlare's, in which the server's properties are the peer's context, and the task's data and id.
        task: the trainer's.
    """
    context = fl_ctx.get_engine().new_context()
    # Empty, but there: trainers and filters ask it for names.
    context.set_peer_context(FLContext())
    # NVFlare goes by the name of the task that this one is part of.
    name = messages.TASKS[Round.MASKED_INPUT_COLLECTION]
    context.set_prop(FLContextKey.TASK_NAME, name, private=True, sticky=False)
    context.set_prop(FLContextKey.TASK_ID, task.get_header(ReservedHeaderKey.TASK_ID), private=True, sticky=False)
    context.set_prop(FLContextKey.TASK_DATA, task, private=True, sticky=False)
    return context


def site_update(result: object) -> SiteUpdate:
    """What a trainer returned; ModelError if it is no update."""
    if not isinstance(result, Shareable):
        raise ModelError("the trainer gave no result")
    if (code := result.get_return_code()) not in (None, ReturnCode.OK):
        raise ModelError(f"the trainer failed: {code}")
    try:
        dxo = from_shareable(result)
        if not isinstance(dxo.meta.get(MetaKey.INITIAL_METRICS, {}), Mapping):
            # A number without a name, as some trainers report. It does not cost the update.
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
        # As in NVFlare's own average.
        steps=(model.meta or {}).get(MetaKey.NUM_STEPS_CURRENT_ROUND, 1),
        metrics=metrics if isinstance(metrics, Mapping) else {},
    )
