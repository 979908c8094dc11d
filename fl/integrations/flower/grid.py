"""The server's side: a grid that gives a strategy the clients' average in place of their replies."""

import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fl.aggregation.scales import Ranges
from fl.errors import ConfigError
from fl.integrations.flower._flwr import Grid, Message, RecordDict, get_fused_config
from fl.integrations.flower.app_view import run_digest
from fl.integrations.flower.averaging import AverageReply, watch
from fl.integrations.flower.content import arrays_of, content_digest
from fl.integrations.flower.errors import FlowerError, RoundAbortedError
from fl.integrations.flower.exchange import exchange
from fl.integrations.flower.offer import RoundOffer
from fl.integrations.flower.reply_scales import ReplyScales
from fl.integrations.flower.round_log import log_round, warn_of_not_sent, why_not
from fl.integrations.flower.session import RoundReport, Session
from fl.integrations.flower.settings import SecAggSettings
from fl.integrations.flower.strategies import calling_strategy, check_strategy, is_vouched_for, weight_of
from fl.integrations.flower.wire import CONTROL
from fl.integrations.identities import EnrolledKeys
from fl.integrations.private_rounds import PrivateRounds
from fl.integrations.record_layout import float_sizes
from fl.integrations.records import Average, RecordEncoding
from fl.privacy.terms import PrivateTerms
from secagg import Adversary, KeyDirectory, LocalProtocolError, Parameters, PlanError, PolicyError, Round

_LOG = logging.getLogger("flwr.secagg")
_NONCE_BYTES = 16


class SecAggGrid(Grid):
    """A wrapper of Flower's grid that answers train messages with one reply, the average of all::

        strategy.start(grid=SecAggGrid(grid), initial_arrays=arrays, num_rounds=3)

    All other messages go to the grid unchanged.  The clients need `secagg_mod`.

    Args:
        grid: the grid that Flower gave the ServerApp.
        strategy: the strategy that uses the replies; by default found when it calls the grid.
        enrolled: in malicious mode, the identity keys of all nodes that may take part, 32 bytes each.
        run_config: the run's configuration, as all nodes have it in ``context.run_config``: a node that was told
            another one takes no part. By default that of the grid's run; a grid of your own without a run needs it.
        settings: the attributes of `SecAggSettings`, by name.

    Attributes:
        reports: the report of each session, in order.

    Raises:
        ConfigError: a setting is unknown or out of range, or Flower's nodes cannot have this run configuration.
        StrategyRefusedError: the strategy cannot work with an average.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        strategy: Any = None,
        enrolled: Iterable[bytes] | None = None,
        run_config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._grid = grid
        self._run_config = None if run_config is None else dict(run_config)
        try:
            run_digest(0, "", self._run_config or {})
        except TypeError as error:
            raise ConfigError(f"the run configuration cannot be used: {error}") from None
        self._settings = SecAggSettings.of(settings)
        self._private = self._settings.private_rounds()
        self._strategy = strategy
        self._checked: list[Any] = []
        self._failed_rounds = 0
        self._why: str | None = None
        self._scales: dict[Hashable, ReplyScales] = {}
        self._warned: set[tuple[tuple[str, str], ...]] = set()
        if strategy is not None:
            self._check(strategy)
        malicious = self._settings.mode is Adversary.MALICIOUS
        if malicious != (enrolled is not None):
            raise ConfigError("`enrolled` keys belong to adversary=Adversary.MALICIOUS: give both or neither")
        try:
            self._directory: KeyDirectory | None = None if enrolled is None else EnrolledKeys(enrolled)
        except LocalProtocolError as error:
            raise ConfigError(f"the enrolled keys cannot be used: {error}") from None
        self.reports: list[RoundReport] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run a session for the messages whose answers are protected; send other messages as they are.

        Args:
            messages: one for each node; protected ones must all have the same content.
            timeout: seconds for the clients' training.

        Returns:
            One reply with the average; an empty list if the round was aborted, so that the strategy keeps its model.

        Raises:
            FlowerError: an average cannot answer these messages.
            RoundAbortedError: a round was aborted, with on_abort="raise"; or more than ``max_failed_rounds`` in a row,
                or all rounds of a training were.
        """
        listed = list(messages)
        protected = [message for message in listed if self._is_protected(message)]
        others = [message for message in listed if not self._is_protected(message)]
        if not protected:
            return self._grid.send_and_receive(others, timeout=timeout)
        if others:
            raise FlowerError("train messages and other messages came in one call: send them in separate calls")
        caller, num_rounds = calling_strategy()
        strategy = self._strategy or caller
        if strategy is not None:
            self._check(strategy)
        return self._aggregate(protected, timeout, weight_of(strategy), num_rounds)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push as the grid does; raise FlowerError for protected messages, which need `send_and_receive`."""
        listed = list(messages)
        if any(self._is_protected(message) for message in listed):
            raise FlowerError("train messages must go through send_and_receive, since their answer is one average")
        return self._grid.push_messages(listed)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull as the grid does."""
        return self._grid.pull_messages(message_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the grid's node ids; check the strategy that asks, since another strategy's loop may use it."""
        strategy, _ = calling_strategy()
        if strategy is not None:
            self._check(strategy)
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:
        """Return the grid's nodes."""
        return self._grid.get_nodes()

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        """Create a message as the grid does."""
        return self._grid.create_message(*arguments, **options)

    def set_run(self, run: Any) -> None:
        """Set the grid's run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Return the grid's run."""
        return self._grid.run

    def _is_protected(self, message: Message) -> bool:
        category = _category(message)
        return category == "train" or (category == "evaluate" and self._settings.protect_evaluate)

    def _check(self, strategy: Any) -> None:
        """Check each strategy once, so that warnings do not come each round."""
        if not any(strategy is checked for checked in self._checked):
            check_strategy(strategy)
            watch(strategy, vouched=is_vouched_for(strategy))
            self._checked.append(strategy)

    def _aggregate(
        self, messages: list[Message], timeout: float | None, weight: str, num_rounds: int | None
    ) -> list[Message]:
        asked = _Asked(messages, *_common_content(messages), self._settings.weighted_by or weight, timeout)
        report, average = self._round(asked)
        self.reports.append(report)
        log_round(report, len(messages), self._settings)
        trains = _category(messages[0]) == "train"
        if average is None:
            if self._settings.on_abort == "raise":
                raise RoundAbortedError(why_not(report))
            if trains:
                self._count_failure(report, num_rounds)
            return []
        if trains:
            self._failed_rounds = 0
        if average.not_sent and average.not_sent not in self._warned:
            self._warned.add(average.not_sent)
            warn_of_not_sent(average, self._settings.clip)
        origin = next(message for message in messages if message.metadata.dst_node_id == report.included[0])
        return [AverageReply(average, len(report.included), origin)]

    def _round(self, asked: "_Asked") -> tuple[RoundReport, Average | None]:
        """Run the round's session, and before it one that measures, if the size of replies is still unknown."""
        if self._private is not None:
            report, average = self._private_session(asked, self._private).run()
            return report, average if isinstance(average, Average) else None
        scales, measuring = self._scales_of(asked), None
        if scales.must_measure:
            session = self._session(asked, scales)
            measuring, ranges = session.run()
            if session.layout is None or not isinstance(ranges, Ranges):
                return measuring, None
            scales.follow_measured(ranges, session.layout)
        report, average = self._session(asked, scales).run()
        if not isinstance(average, Average):
            return replace(report, measuring=measuring), None
        exceeded, cut_weights = scales.follow(average)
        return replace(report, measuring=measuring, exceeded=exceeded, cut_weights=cut_weights), average

    def _scales_of(self, asked: "_Asked") -> ReplyScales:
        """Return the bounds for these messages: other arrays, or another kind of message, have other bounds."""
        message_type = asked.messages[0].metadata.message_type
        # An evaluation answers with metrics only.
        sent = None if _category(asked.messages[0]) == "evaluate" else arrays_of(asked.content)
        shapes = {place: sent[place[0]][place[1]].shape for place in float_sizes(sent)} if sent else {}
        kind = (message_type, tuple(shapes.items()))
        if kind not in self._scales:
            self._scales[kind] = ReplyScales(self._settings, sent, len(asked.messages))
        return self._scales[kind]

    def _count_failure(self, report: RoundReport, num_rounds: int | None) -> None:
        """Raise RoundAbortedError after too many failed rounds in a row, or after a training without any sum."""
        self._failed_rounds += 1
        goes_on_after = self._settings.max_failed_rounds
        if num_rounds is not None:
            goes_on_after = min(goes_on_after, num_rounds - 1)
        if self._failed_rounds > goes_on_after:
            rounds = f"{self._failed_rounds} rounds in a row" if self._failed_rounds > 1 else "a round"
            raise RoundAbortedError(f"{rounds} without a result; the last: {why_not(report)}")

    def _session(self, asked: "_Asked", scales: ReplyScales) -> Session:
        messages = asked.messages
        encoding = scales.encoding(len(messages), asked.weight)
        try:
            plan = self._settings.plan(
                len(messages),
                vector_length=encoding.vector_length,
                value_bits=encoding.value_bits,
                threshold=self._settings.threshold,
            )
        except (PlanError, PolicyError) as error:
            raise FlowerError(f"secure aggregation over {len(messages)} nodes is impossible: {error}") from None
        if plan.why is not None and plan.why != self._why:
            _LOG.info("secagg: %s", plan.why)
            self._why = plan.why
        return self._opened(asked, plan.parameters, encoding)

    def _private_session(self, asked: "_Asked", rounds: PrivateRounds) -> Session:
        """Return a session with noise, which is charged to the training's ledger."""
        sizes = tuple(float_sizes(arrays_of(asked.content)).values())
        count = len(asked.messages)
        try:
            session = rounds.session(count, sum(sizes))
            replace(self._settings.nodes_policy, may_wrap=True).check(session.parameters)
        except (PlanError, PolicyError, ConfigError) as error:
            raise FlowerError(f"private aggregation over {count} nodes is impossible: {error}") from None
        spent = rounds.charge(session)
        _LOG.info("secagg: with this round, epsilon is %.4g of %g", spent, rounds.budget.epsilon)
        encoding = self._settings.encoding(sizes=sizes, num_clients=count, scales=None, weight=asked.weight)
        return self._opened(asked, session.parameters, encoding, session.terms)

    def _opened(
        self, asked: "_Asked", params: Parameters, encoding: RecordEncoding, privacy: PrivateTerms | None = None
    ) -> Session:
        metadata = asked.messages[0].metadata
        run = run_digest(metadata.run_id, metadata.group_id, self._known_config())
        return Session(
            asked.messages,
            RoundOffer(params, encoding, os.urandom(_NONCE_BYTES), asked.digest, run, privacy),
            lambda sent, round_: self._exchange(sent, round_, asked.timeout),
            workers=self._settings.workers,
            directory=self._directory,
        )

    def _known_config(self) -> Mapping[str, Any]:
        """Return the run's configuration that the server knows."""
        if self._run_config is not None:
            return self._run_config
        run = self._grid.run
        return {} if run is None else get_fused_config(run)

    def _exchange(self, messages: list[Message], round_: Round, timeout: float | None) -> Iterator[Message]:
        trains = round_ is Round.MASKED_INPUT_COLLECTION
        return exchange(
            self._grid,
            messages,
            timeout=timeout if trains else self._settings.round_timeout,
            poll_seconds=self._settings.poll_seconds,
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """The request of a round: one content, its digest, the metric that weighs replies, and the time to train."""

    messages: list[Message]
    content: RecordDict
    digest: bytes
    weight: str
    timeout: float | None


def _category(message: Message) -> str:
    return str(message.metadata.message_type.split(".")[0])


def _common_content(messages: list[Message]) -> tuple[RecordDict, bytes]:
    """Return the content of all messages and its digest; raise FlowerError if the messages differ."""
    first = messages[0]
    nodes = {message.metadata.dst_node_id for message in messages}
    if len(nodes) != len(messages):
        raise FlowerError(
            "one node was given two train messages in one round, so it would count twice: send one message to each node"
        )
    if CONTROL in first.content:
        raise FlowerError(
            f"the app's record {CONTROL!r} has the name of the protocol's own record: give it another name"
        )
    digest = content_digest(first.metadata.message_type, first.content)
    for message in messages[1:]:
        same = (
            message.content is first.content and message.metadata.message_type == first.metadata.message_type
        ) or content_digest(message.metadata.message_type, message.content) == digest
        if not same or message.metadata.group_id != first.metadata.group_id:
            raise FlowerError(
                f"node {message.metadata.dst_node_id} would be sent other records, or another group, than node "
                f"{first.metadata.dst_node_id}: secure aggregation needs one content for all, since clients that were "
                "given different models cannot agree on masks"
            )
    return first.content, digest
