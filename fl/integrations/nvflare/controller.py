"""The server's side: NVFlare's FedAvg, with the average from a secure sum."""

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from fl.aggregation.planning import plan_session, widest_graph
from fl.aggregation.private_session import PrivateSession
from fl.aggregation.scales import Scales
from fl.errors import FLError
from fl.integrations.nvflare._nvflare import (
    AppEventType,
    FedAvg,
    FLContext,
    FLModel,
    MetaKey,
    ParamsType,
    Shareable,
    logger,
)
from fl.integrations.nvflare.announcement import TaskAnnouncement
from fl.integrations.nvflare.errors import NVFlareJobError
from fl.integrations.nvflare.identities import SiteIdentities
from fl.integrations.nvflare.model_encoding import MeanUpdate, Model, ModelEncoding, as_model, digest, whole
from fl.integrations.nvflare.model_scales import ModelScales
from fl.integrations.nvflare.private_job import private_rounds
from fl.integrations.nvflare.server_session import TaskReport, describe, run_session
from fl.integrations.nvflare.settings import deadlines, session_policy
from fl.integrations.nvflare.task_courier import TaskCourier, announced_meta
from fl.integrations.nvflare.widgets import generated, tell_widgets
from fl.integrations.private_records import PrivateRecords
from fl.integrations.private_rounds import PrivateRounds
from secagg import Adversary, Completed, Parameters, PlanError, PolicyError
from secagg.algebra import ring
from secagg.planner import impossible_for_any
from transport.errors import printable

_LOG = logger(__name__)

_T = TypeVar("_T")


class SecAggController(FedAvg):
    """FedAvg over secure sums; rounds, model selection, early stopping and saving stay NVFlare's.

    Each round is one session of the protocol, with a fresh nonce, bound to the model that it starts from.  A round in
    which too few sites remain, or whose sum is invalid (one site can spoil it), leaves the model as it is.  After more
    than ``max_failed_rounds`` such rounds in a row the job ends.

    Each entry of the model has a clipping bound, and so have the steps.  The bounds follow the sites' updates from
    round to round.  The first round begins with a session that only measures the sizes of the updates.

    Args:
        clip: a fixed clipping bound for all elements of a site's change; by default each entry's bound follows the
            changes.
        max_steps: a fixed bound on a site's NUM_STEPS_CURRENT_ROUND: more steps count as the bound. Rounding is finest
            if it is close to the largest number of steps; by default it follows the sites' steps. With both bounds
            fixed, no session measures.
        metrics: names of the metrics whose averages the server gets; other metrics stay with the sites.
        metric_bound: metrics must be in [-metric_bound, metric_bound].
        value_bits: bits of an encoded element; by default as many as fit a sum into 32 bits, at most 24.
        adversary: the adversary that rounds are safe against: honest-but-curious, semi-malicious or malicious; by
            default malicious with ``identity_id``, else honest-but-curious.
        dropout: the fraction of sites expected to vanish in a round.
        corrupt: the fraction of sites that may share what they know with the server.
        threshold: a larger threshold than the one that follows from the other arguments.
        min_inputs: the fewest sites in a sum that the sites accept; see `SecAggExecutor`.
        graph: ``complete``, ``sparse`` if the sites accept it, or ``auto`` for the cheapest that is safe and that sites
            usually accept.
        identity_id: in malicious mode, the id of the `SiteIdentities` component.
        round_timeout: seconds for each of the protocol's rounds without training.
        train_timeout: seconds for the round in which sites train.
        max_failed_rounds: the most rounds without a sum, in a row, before the job ends.
        workers: threads for unmasking.
        shareable_generator_id: the id of the component that makes the next model from the mean, such as FedOpt's; by
            default the mean is added to the model.
        num_clients: sites in a round; by default all that are connected.
        epsilon, delta, l2_clip: for differential privacy, what all rounds together may give away of one site, and the
            L2 norm to which a site's change of all entries together is clipped; sites then count once each.
        ledger: the file of what private rounds have spent; a file that exists goes on. By default it is in memory.
        args, kwargs: `FedAvg`'s other arguments, except aggregators and weights by site, which need each site's update.

    Raises:
        NVFlareJobError: an argument is invalid.
    """

    def __init__(
        self,
        *args: Any,
        clip: float | None = None,
        max_steps: int | None = None,
        metrics: Sequence[str] = (),
        metric_bound: float = 1000.0,
        value_bits: int | None = None,
        adversary: str | None = None,
        dropout: float = 0.0,
        corrupt: float = 0.0,
        threshold: int | None = None,
        min_inputs: int | None = None,
        graph: str = "auto",
        identity_id: str | None = None,
        round_timeout: float = 60.0,
        train_timeout: float = 600.0,
        max_failed_rounds: int = 2,
        workers: int = 1,
        shareable_generator_id: str | None = None,
        num_clients: int | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
        l2_clip: float | None = None,
        ledger: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, num_clients=num_clients, **kwargs)
        if self.aggregator is not None or self.aggregation_weights:
            raise NVFlareJobError("an aggregator or weights by site need each site's update, which nobody sees")
        self.clip = clip
        self.max_steps = None if max_steps is None else whole(max_steps)
        self.metrics = list(metrics)
        self.metric_bound = metric_bound
        self.value_bits = value_bits
        self.adversary = adversary
        self.dropout = dropout
        self.corrupt = corrupt
        self.threshold = threshold
        self.min_inputs = min_inputs
        self.graph = graph
        self.identity_id = identity_id
        self.round_timeout = round_timeout
        self.train_timeout = train_timeout
        self.max_failed_rounds = max_failed_rounds
        self.workers = workers
        self.shareable_generator_id = shareable_generator_id
        self._policy = session_policy(adversary, min_inputs, graph, corrupt, identity_id)
        self.epsilon, self.delta, self.l2_clip, self.ledger = epsilon, delta, l2_clip, ledger
        self._check_arguments()
        self._private = private_rounds(self, self._policy)
        self._failed_rounds = 0
        self._why: str | None = None
        self._has_result = False
        self._why_failed = ""
        self._is_told_of_round = False
        self._mean: tuple[MeanUpdate, int] | None = None
        self._scales: ModelScales | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Note that NVFlare has announced a round's start."""
        super().handle_event(event_type, fl_ctx)
        if event_type == AppEventType.ROUND_STARTED:
            self._is_told_of_round = True

    def send_model(self, *, data: FLModel, targets: Sequence[str], **_: Any) -> None:
        """Run one session in place of FedAvg's sending of the model; before the first, run one that measures."""
        self._mean = None
        self._open_round(data)
        sites = tuple(sorted(targets))
        try:
            model = as_model(data.params)
            result = (
                self._measured_and_summed(model, sites, data)
                if self._private is None
                else self._noisy(model, sites, data, self._private)
            )
        except (PlanError, PolicyError) as error:
            self.panic(f"no round with {len(sites)} sites can be secure as the job asks: {error}")
            return
        except FLError as error:
            self.panic(f"the round cannot be opened: {error}")
            return
        if result is not None:
            mean, included = self._mean = result
            self._failed_rounds, self._has_result = 0, True
            if self._private is None and self._scales is not None:
                warnings, notes = self._scales.follow(mean, included)
                for level, said in ((logging.WARNING, warnings), (logging.INFO, notes)):
                    for text in said:
                        _LOG.log(level, "round %d: %s", data.current_round, text)
            tell_widgets(self, mean)

    def _measured_and_summed(
        self, model: Model, sites: tuple[str, ...], data: FLModel
    ) -> tuple[MeanUpdate, int] | None:
        scales = self._scales_of(model, len(sites))
        if scales.scales is None:
            measured = self._session(self._announce(model, sites, data, None), model, data, ModelEncoding.decode_ranges)
            if measured is None:
                return None
            scales.follow_measured(measured[0])
        return self._session(self._announce(model, sites, data, scales.scales), model, data, ModelEncoding.decode)

    def _noisy(
        self, model: Model, sites: tuple[str, ...], data: FLModel, rounds: PrivateRounds
    ) -> tuple[MeanUpdate, int] | None:
        """Run a private session, which is charged to the job's ledger before the sites know of it."""
        session = rounds.session(len(sites), self._encoding(len(sites), model, None).num_elements(model))
        replace(self._policy, may_wrap=True).check(session.parameters)
        announcement = self._announce(model, sites, data, None, session)
        _LOG.info("round %d: epsilon is then %.4g of %g", data.current_round, rounds.charge(session), self.epsilon)
        records = PrivateRecords(session.terms.mechanism, announcement.to_bytes())
        return self._session(
            announcement,
            model,
            data,
            lambda encoding, total, count, model: encoding.of_flat(records.mean(total, count), count, model),
        )

    def _session(
        self,
        announcement: TaskAnnouncement,
        model: Model,
        data: FLModel,
        decode: Callable[[ModelEncoding, ring.RingVector, int, Model], _T],
    ) -> tuple[_T, int] | None:
        """Return the result of one session and the number of its sites; None if the round has no result."""
        sites = announcement.sites
        report = self._run(announcement, data)
        for site, reason in sorted(report.reasons.items()):
            _LOG.error("round %d: %s is out: %s", self.current_round, printable(site), reason)
        measures = announcement.measures
        line = f"round {data.current_round}: {describe(report, len(sites), 'the ranges' if measures else 'the sum')}"
        first = "the first session, which measures the updates, failed: " if measures else ""
        if isinstance(report.outcome, Completed):
            included = len(report.outcome.included)
            try:
                found = decode(announcement.encoding, report.outcome.sum, included, model)
            except FLError as error:
                self._fail(line, first + (str(error) if measures else f"the sum cannot be decoded: {error}"))
                return None
            if isinstance(found, MeanUpdate):
                line += f"; rounding noise is {100 * found.noise:.2g}% of the mean change"
            _LOG.info("%s", line)
            return found, included
        if report.outcome is not None:
            self._fail(line, first + str(report.outcome))
        return None

    def _scales_of(self, model: Model, num_sites: int) -> ModelScales:
        """Return the bounds of the job's model; a model with other entries or shapes gets new bounds."""
        encoding = self._encoding(num_sites, model, None)
        if self._scales is None or self._scales.shapes != encoding.averaged(model):
            self._scales = ModelScales(
                encoding.averaged(model), encoding.value_bits, clip=self.clip, max_steps=self.max_steps
            )
        return self._scales

    def _fail(self, line: str, reason: str) -> None:
        """Note a round without a result; end the job if there were too many in a row."""
        self._failed_rounds += 1
        self._why_failed = reason
        _LOG.error("%s; %s; the model stays as it is", line, reason)
        if self._failed_rounds > self.max_failed_rounds:
            self.panic(f"{self._failed_rounds} rounds in a row without a result; the last: {reason}")

    def run(self) -> None:
        """Run the rounds; the job fails if none of them has a result."""
        super().run()
        if not self._has_result and 0 < self._failed_rounds <= self.max_failed_rounds:
            self.panic(f"none of {self._failed_rounds} rounds had a result; the last: {self._why_failed}")

    def _get_aggregated_result(self) -> FLModel:
        """Return the average to FedAvg."""
        meta: dict[str, Any] = {"nr_aggregated": 0, "current_round": self.current_round}
        if self._mean is None:
            return FLModel(params={}, params_type=ParamsType.DIFF, meta=meta)
        mean, included = self._mean
        meta |= {"nr_aggregated": included, MetaKey.NUM_STEPS_CURRENT_ROUND: mean.total_steps}
        return FLModel(
            params=mean.differences,
            params_type=ParamsType.DIFF,
            metrics=mean.metrics or None,
            current_round=self.current_round,
            meta=meta,
        )

    def update_model(self, model: FLModel, aggr_result: FLModel) -> FLModel:
        """Add the mean to the model, or let the shareable generator make the next model."""
        if self.shareable_generator_id is not None and self._mean is not None:
            made = generated(self, model, aggr_result)
            # Entries that did not travel stay as they are. All entries keep their types.
            params = {
                name: np.array(made.get(name, entry), dtype=np.asarray(entry).dtype)
                if name in aggr_result.params
                else entry
                for name, entry in model.params.items()
            }
            aggr_result.params, aggr_result.params_type = params, ParamsType.FULL
        return super().update_model(model, aggr_result)

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Log a late answer; the round went on without the site."""
        _LOG.info("%s answered %s too late", client.name, task_name)

    def _open_round(self, data: FLModel) -> None:
        """Do the first steps of FedAvg's own sending, which widgets need; from 2.8 on the loop announces the round."""
        self.set_fl_context(data)
        if not self._is_told_of_round:
            self.event(AppEventType.ROUND_STARTED)
        self._is_told_of_round = False

    def _announce(
        self,
        model: Model,
        sites: tuple[str, ...],
        data: FLModel,
        scales: Scales | None,
        private: PrivateSession | None = None,
    ) -> TaskAnnouncement:
        encoding = self._encoding(len(sites), model, scales)
        params = None if private is None else private.parameters
        return TaskAnnouncement(
            job_id=self.fl_ctx.get_job_id(),
            round=self.current_round,
            start_round=self.start_round,
            total_rounds=self.num_rounds,
            meta=announced_meta(data.meta or {}),
            sites=sites,
            params=params or self._parameters(len(sites), encoding.vector_length(model), encoding.value_bits),
            encoding=encoding,
            model_digest=digest(model),
            nonce=os.urandom(32),
            privacy=None if private is None else private.terms,
        )

    def _run(self, announcement: TaskAnnouncement, model: FLModel) -> TaskReport:
        courier = TaskCourier(self, announcement, model, self.fl_ctx, self.abort_signal)
        directory = None
        if announcement.params.has_identities:
            identities = self.get_component(self.identity_id)
            if not isinstance(identities, SiteIdentities):
                raise NVFlareJobError("malicious mode needs a component with the sites' identities: give `identities`")
            directory = identities.directory(announcement.sites, self.fl_ctx)
        return run_session(
            announcement,
            courier,
            deadlines(self.round_timeout, self.train_timeout),
            directory=directory,
            workers=self.workers,
        )

    def _check_arguments(self) -> None:
        """Check what does not depend on the number of sites."""
        adversary = self._policy.adversary
        if faults := impossible_for_any(self.dropout, self.corrupt, adversary, widest_graph(self.graph, adversary)):
            raise NVFlareJobError("; ".join(faults))
        if self.max_steps is not None and (not isinstance(self.max_steps, int) or self.max_steps < 1):
            raise NVFlareJobError(f"a site makes at least one step in a round, so max_steps cannot be {self.max_steps}")
        try:
            encoding = self._encoding(2, {}, None)
            ModelScales({"": ()}, encoding.value_bits, clip=self.clip, max_steps=self.max_steps)
            self._deadlines = deadlines(self.round_timeout, self.train_timeout)
        except (FLError, ValueError, TypeError) as error:
            raise NVFlareJobError(str(error)) from None
        except re.error as error:
            raise NVFlareJobError(f"exclude_vars is not a valid regular expression: {error}") from None
        if adversary is Adversary.MALICIOUS and self.identity_id is None:
            raise NVFlareJobError("malicious mode needs the sites' identities: give `identities`, such as SiteKeyFiles")

    def _encoding(self, num_sites: int, model: Model, scales: Scales | None) -> ModelEncoding:
        pattern = None if self.exclude_vars is None else re.compile(self.exclude_vars)
        bits = self.value_bits
        return ModelEncoding(
            num_sites=num_sites,
            scales=scales,
            value_bits=min(24, 32 - (num_sites - 1).bit_length()) if bits is None else bits,
            metrics=tuple(self.metrics),
            metric_bound=self.metric_bound,
            excluded=tuple(sorted(name for name in model if pattern is not None and pattern.search(name))),
        )

    def _parameters(self, num_sites: int, vector_length: int, value_bits: int) -> Parameters:
        """Return the parameters that the job asks for; raise PolicyError if the sites would decline them."""
        planned = plan_session(
            num_clients=num_sites,
            vector_length=vector_length,
            value_bits=value_bits,
            dropout=self.dropout,
            corrupt=self.corrupt,
            adversary=self._policy.adversary,
            graph=self.graph,
            threshold=self.threshold,
            min_inputs=self._policy.min_inputs,
        )
        self._policy.check(planned.parameters)
        if planned.why is not None and planned.why != self._why:
            _LOG.info("%s", planned.why)
            self._why = planned.why
        return planned.parameters
