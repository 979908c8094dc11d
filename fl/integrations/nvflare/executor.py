"""The site's side: an executor around any other, whose update never leaves it unmasked."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from fl.aggregation.participation import open_participation
from fl.errors import FLError, PublicError
from fl.integrations.nvflare import messages
from fl.integrations.nvflare._nvflare import (
    EventType,
    Executor,
    FilterKey,
    FLContext,
    FLContextKey,
    ReturnCode,
    Shareable,
    apply_filters,
    logger,
    make_reply,
    materialize,
)
from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.errors import NVFlareJobError, TaskAnnouncementError, UpdateRefusedError
from fl.integrations.nvflare.identities import SiteIdentities, local_path
from fl.integrations.nvflare.model_encoding import Model, SiteUpdate, whole
from fl.integrations.nvflare.settings import DEFAULT_MAX_ROUNDS, DEFAULT_TRAINING, session_policy
from fl.integrations.nvflare.site_privacy import site_privacy
from fl.integrations.nvflare.site_record import SiteRecord
from fl.integrations.nvflare.site_session import SiteSession
from fl.integrations.nvflare.train_task import received_model, site_context, site_update, train_task
from fl.integrations.private_records import PrivateRecords
from secagg import Adversary, PolicyError, Round, SecAggError
from transport.driver import InputVector
from transport.errors import InputWithheldError, TransportError

_LOG = logger(__name__)

TRAINER_ID = "secagg_trainer"

_RECORD_FOLDER = "secagg_record"


class SecAggExecutor(Executor):
    """An executor that runs the protocol's rounds as tasks, and gives the trainer the model when an input is due.

    The trainer is any executor.  It gets NVFlare's ``train`` task with the model, the round and the meta that were
    announced to all sites, and no other data from the server.  The job's filters for that task, and the site's filters
    for its results, apply as usual; their output is encoded, masked, and only then sent.  If training fails, or gives
    an update that is not finite or has an invalid number of steps, the site's input counts nothing: if the server's
    model breaks training on some examples, the server must not see whose.  The site's log has the reason.  An update
    with other names, types or shapes than the model's is not sent, and the server gets the reason: structure is public.

    A session that measures gets only the size of the update.  The update waits in memory for the session that asks for
    it, so the trainer is called once.

    In private rounds the update gets noise, and counts as one whatever its steps; metrics do not travel.  A site with
    limits of its own (`fl.integrations.nvflare.site_privacy`) charges its ledger before it trains, and refuses rounds
    beyond them, rounds without noise, and ``plain_tasks``.

    Security: tasks that are neither the protocol's nor listed in ``plain_tasks`` are refused, since a server could ask
    the trainer for its update under another task name.  In signed modes a durable record ensures that the site enters
    no session twice and answers no round of a job twice.

    Args:
        trainer_id: the trainer's id among the job's components.
        train_task: the name of the task in which sites train.
        adversary: the weakest adversary that a session must be safe against: by default malicious with ``identity_id``,
            else honest-but-curious.
        min_inputs: the fewest sites in a sum that this site accepts: by default 3 with ``identity_id``, else 2.
        identity_id: in malicious mode, the id of the `SiteIdentities` component.
        plain_tasks: names of tasks that the trainer may answer in the clear, such as ``validate``.
        graph: ``complete``, or ``sparse`` to accept sparse graphs too; by default, or with ``auto``, a site that trusts
            the server accepts them, and one that does not declines them (see `secagg.SessionPolicy`).
        corrupt: on sparse graphs, the fraction of sites that may share what they know with the server.
        max_rounds: in signed modes, the most rounds that this site answers in one training, all jobs together.
        training: the training's name; each training has its own ``max_rounds``.
        record: the folder of the record of this site's sessions, on a local disk; by default ``secagg_record``.
            Relative paths start where those of `SiteKeyFiles` do. The folder must outlive the job.

    Raises:
        NVFlareJobError: an argument is invalid.
    """

    def __init__(
        self,
        trainer_id: str = TRAINER_ID,
        train_task: str = "train",
        adversary: str | None = None,
        min_inputs: int | None = None,
        identity_id: str | None = None,
        plain_tasks: Sequence[str] = (),
        graph: str | None = None,
        corrupt: float = 0.0,
        max_rounds: int = DEFAULT_MAX_ROUNDS,
        training: str = DEFAULT_TRAINING,
        record: str | None = None,
    ) -> None:
        super().__init__()
        if train_task in plain_tasks:
            raise NVFlareJobError(f"{train_task!r} is the task in which sites train: remove it from plain_tasks")
        if max_rounds < 1:
            raise NVFlareJobError(f"max_rounds must be at least 1, not {max_rounds}")
        self.trainer_id = trainer_id
        self.train_task = train_task
        self.adversary = adversary
        self.min_inputs = min_inputs
        self.identity_id = identity_id
        self.plain_tasks = list(plain_tasks)
        self.graph = graph
        self.corrupt = corrupt
        self.max_rounds = max_rounds
        self.training = training
        self.record = record
        self._policy = session_policy(adversary, min_inputs, graph, corrupt, identity_id)
        self._busy = threading.Lock()
        self._session: SiteSession | None = None
        # The measured update with the request that it answers: for the next session only.
        self._kept: tuple[bytes, SiteUpdate] | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Forget the session, and the update, when the run ends."""
        if event_type == EventType.END_RUN:
            self._session = self._kept = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any) -> Shareable:
        """Answer one task."""
        if task_name in self.plain_tasks and not self._has_limits(task_name, fl_ctx):
            return self._trainer(fl_ctx).execute(task_name, shareable, fl_ctx, abort_signal)
        if task_name not in messages.TASKS.values():
            _LOG.error(
                "refused task %r: it is not the protocol's, and its result would leave this site in the clear "
                "(plain_tasks lists those that may)",
                task_name,
            )
            return make_reply(ReturnCode.TASK_UNKNOWN)
        # NVFlare executes tasks that the server pushes as well as tasks that the site asks for. A task does not wait
        # for another, which may train for hours; an honest server sends the next task after the last result.
        if not self._busy.acquire(blocking=False):
            _LOG.error("refused task %r: another task of the protocol is in progress on this site", task_name)
            return make_reply(ReturnCode.SERVICE_UNAVAILABLE)
        try:
            if task_name == messages.TASKS[Round.ADVERTISE_KEYS]:
                return self._join(shareable, fl_ctx)
            return self._answer(shareable, fl_ctx, abort_signal)
        except (FLError, SecAggError, TransportError) as error:
            self._session = None
            # Log no traceback, since its frames may hold the update.
            _LOG.error("this site is out of the round: %s", error)
            return messages.refusal(str(error) if isinstance(error, PublicError | PolicyError) else "")
        except BaseException:
            self._session = None
            raise
        finally:
            self._busy.release()

    def _join(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        announcement = TaskAnnouncement.from_bytes(messages.announced(shareable))
        site = fl_ctx.get_identity_name()
        if self._session is None or self._session.announcement.to_bytes() != announcement.to_bytes():
            # A session in progress ends here: the server opens one round at a time.
            self._session = None
            if self._kept is not None and self._kept[0] != announcement.asked:
                self._kept = None
            if announcement.job_id != fl_ctx.get_job_id():
                raise TaskAnnouncementError("the round was announced for another job")
            site_privacy(self._policy, fl_ctx).check(announcement.privacy, announcement.params)
            self._session = self._open(announcement, site, fl_ctx)
            _LOG.info(
                "takes part in %sround %d with %d sites, of which %d must remain, against a %s server",
                "the measuring of " if announcement.measures else "",
                announcement.round,
                announcement.params.num_clients,
                announcement.params.threshold,
                announcement.params.adversary.value,
            )
            if announcement.params.adversary is Adversary.HONEST_BUT_CURIOUS:
                _LOG.warning(
                    "round %d protects this site's update only from a server that follows the protocol: "
                    "malicious mode needs `identities`",
                    announcement.round,
                )
        return messages.put_message(Shareable(), self._session.opening)

    def _open(self, announcement: TaskAnnouncement, site: str, fl_ctx: FLContext) -> SiteSession:
        if not announcement.params.is_signed:
            return SiteSession(announcement, site)
        if not announcement.params.has_identities:
            return SiteSession(announcement, site, record=self._record(site.encode(), announcement, fl_ctx))
        if self.identity_id is None:
            raise NVFlareJobError("the round is in malicious mode, but the job has no component with identities")
        identities = self._component(self.identity_id, SiteIdentities, fl_ctx)
        identity = identities.identity(site, fl_ctx)
        directory = identities.directory(announcement.sites, fl_ctx)
        record = self._record(identity.public_key, announcement, fl_ctx)
        return SiteSession(announcement, site, identity=identity, directory=directory, record=record)

    def _record(self, site: bytes, announcement: TaskAnnouncement, fl_ctx: FLContext) -> SiteRecord:
        """Return the record of this site's answers, stored next to its identity, since it must last as long."""
        folder = local_path(_RECORD_FOLDER if self.record is None else self.record, fl_ctx)
        return SiteRecord(
            open_participation(folder),
            site,
            training=self.training,
            job_id=announcement.job_id,
            max_rounds=self.max_rounds,
        )

    def _answer(self, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any) -> Shareable:
        message = messages.take_message(shareable)
        session = self._session
        if session is None or message is None:
            raise TaskAnnouncementError("this task does not belong to a session on this site")
        answer = session.answer(message, lambda: self._input(session.announcement, shareable, fl_ctx, abort_signal))
        return messages.put_message(Shareable(), answer)

    def _input(
        self, announcement: TaskAnnouncement, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any
    ) -> InputVector:
        """Return the encoded input that the session asks for; errors of structure and settings withhold it."""
        try:
            materialize(shareable, fl_ctx, abort_signal)
            return self._encoded(announcement, received_model(shareable, announcement), fl_ctx, abort_signal)
        except PublicError as error:
            raise UpdateRefusedError(str(error)) from None
        except FLError as error:
            raise InputWithheldError(str(error)) from None

    def _encoded(
        self, announcement: TaskAnnouncement, model: Model, fl_ctx: FLContext, abort_signal: Any
    ) -> InputVector:
        """Return the encoded update; or its encoded size, and keep the update for the next session."""
        if announcement.private is not None:
            return self._noisy(announcement, announcement.private, model, fl_ctx, abort_signal)
        encoding, (kept, self._kept) = announcement.encoding, (self._kept, None)
        # The generator only rounds; it protects nothing.
        rng = np.random.default_rng()
        try:
            if kept is not None and kept[0] == announcement.asked and not encoding.measures:
                update = kept[1]
            else:
                update = self._trained(announcement, model, fl_ctx, abort_signal)
            vector = encoding.encode(update, model, rng)
        except (PublicError, NVFlareJobError):
            raise
        except Exception as error:  # noqa: BLE001 - the trainer's code and the filters may raise anything
            _LOG.error(
                "round %d: this site's input counts nothing, since it has no update: %s: %s",
                announcement.round,
                type(error).__name__,
                error,
            )
            update = encoding.no_update(model)
            vector = encoding.encode(update, model, rng)
        if encoding.scales is None:
            self._kept = announcement.asked, encoding.to_keep(update, model)
        elif (steps := whole(update.steps)) > encoding.scales.max_weight:
            _LOG.warning(
                "round %d: this site made %d steps and counts as one of %d, the bound in this round",
                announcement.round,
                steps,
                encoding.scales.max_weight,
            )
        return vector

    def _noisy(
        self,
        announcement: TaskAnnouncement,
        records: PrivateRecords,
        model: Model,
        fl_ctx: FLContext,
        abort_signal: Any,
    ) -> InputVector:
        """Return the change with noise, or noise alone if training failed; the ledger is charged first."""
        assert announcement.privacy is not None  # noqa: S101 - the records are of it
        site_privacy(self._policy, fl_ctx).charge(announcement.privacy, announcement.params)
        rng = np.random.default_rng()
        try:
            update = self._trained(announcement, model, fl_ctx, abort_signal)
            return records.encode(announcement.encoding.flat_change(update, model), rng, os.urandom)
        except (PublicError, NVFlareJobError):
            raise
        except Exception as error:  # noqa: BLE001 - the trainer's code and the filters may raise anything
            _LOG.error(
                "round %d: this site's input is noise alone, since it has no update: %s: %s",
                announcement.round,
                type(error).__name__,
                error,
            )
            return records.encode(None, rng, os.urandom)

    def _has_limits(self, task_name: str, fl_ctx: FLContext) -> bool:
        """Return whether the site has limits of privacy, so that it answers nothing in the clear."""
        if site_privacy(self._policy, fl_ctx).limits is None:
            return False
        _LOG.error("refused task %r: its result would have no noise, and this site has limits of privacy", task_name)
        return True

    def _trained(
        self, announcement: TaskAnnouncement, model: Model, fl_ctx: FLContext, abort_signal: Any
    ) -> SiteUpdate:
        """Return the trainer's update."""
        task = train_task(announcement, model, self.train_task)
        update = site_update(self._filtered_training(task, site_context(fl_ctx, task), abort_signal))
        if left := announcement.encoding.metrics_left_out(update):
            _LOG.warning("metrics that are not finite numbers within the job's metric_bound are not sent: %s", left)
        return update

    def _filtered_training(self, task: Shareable, context: FLContext, abort_signal: Any) -> object:
        """Run the train task as NVFlare's own runner does.

        NVFlare applies the site's own filters, those of its privacy policy, to each task.  It has applied them to this
        task's data, but after the masking they would find no update, so they are applied here.
        """
        runner = context.get_prop(FLContextKey.RUNNER)
        if runner is None:
            raise NVFlareJobError("NVFlare's runner was not found, so the filters of this site's results are unknown")
        for filter_ in runner.task_data_filters.get(self.train_task + FilterKey.DELIMITER + FilterKey.IN, ()):
            task = filter_.process(task, context)
        result = self._trainer(context).execute(self.train_task, task, context, abort_signal)
        if not isinstance(result, Shareable):
            return result
        materialize(result, context, abort_signal)
        filters = runner.task_result_filters
        return apply_filters("task_result_filters", result, context, filters, self.train_task, FilterKey.OUT)

    def requires_materialized_task_result(self, task_name: str) -> bool:
        """Return True, so that NVFlare delivers the trainer's result here and does not stream it to the server."""
        return True

    def _trainer(self, fl_ctx: FLContext) -> Executor:
        return self._component(self.trainer_id, Executor, fl_ctx)

    @staticmethod
    def _component(component_id: str, kind: type, fl_ctx: FLContext) -> Any:
        component = fl_ctx.get_engine().get_component(component_id)
        if not isinstance(component, kind):
            raise NVFlareJobError(f"the job has no component {component_id!r} that is a {kind.__name__}")
        return component
