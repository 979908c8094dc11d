"""One session on the server's side: the protocol's rounds as exchanges of messages with the nodes."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fl.aggregation.scales import Exceeded, Ranges
from fl.errors import FLError
from fl.integrations.flower._flwr import OF_THE_APP, Message, RecordDict
from fl.integrations.flower.content import arrays_of
from fl.integrations.flower.offer import RoundOffer
from fl.integrations.flower.wire import (
    REASON_LIMIT,
    REFUSAL,
    Onward,
    Opening,
    pack_onward,
    pack_opening,
    unpack_answer,
)
from fl.integrations.private_records import private_average
from fl.integrations.record_layout import RecordError, RecordLayout
from fl.integrations.records import Average
from secagg import Aborted, ClientDropped, ClientId, Completed, DropReason, KeyDirectory, Round, Server
from transport import Deadlines, RecoveryPool, ServerDriver
from transport.errors import printable

_LOG = logging.getLogger("flwr.secagg")

NodeId = int
Exchange = Callable[[list[Message], Round], Iterator[Message]]
"""A function that sends one message to each node and yields their replies, within the time of that round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """The result of a session.

    Attributes:
        aborted: why the average is missing, or None; a text if the sum cannot be decoded.
        included: nodes whose replies are in the average.
        dropped: nodes that left, in which round, and why.
        total_weight: the sum of the weights of all included nodes; 0 without an average.
        clipped: the fraction of array elements that were clipped.
        noise: rounding noise as a fraction of the average change: standard deviation over root mean square, both in
            units of each array's bound; nan without an average.
        exceeded: arrays whose bound clients exceeded, so that they were clipped, by name.
        cut_weights: by how much clients' weights exceeded their bound, as which they counted; None if none did.
        partial_metrics: metrics that some included clients lack, each with the total weight of the clients that have
            it.
        bytes_down, bytes_up: bytes of the protocol's messages, without the app's own records.
        seconds: seconds of each round, waiting included.
        measures: True if the session only measured the sizes of the replies.
        measuring: the report of the measuring session before it in its round, or None; its costs are not included here.
    """

    aborted: Aborted | str | None
    included: tuple[NodeId, ...]
    dropped: dict[NodeId, tuple[Round, str]]
    total_weight: int = 0
    clipped: float = 0.0
    noise: float = math.nan
    exceeded: dict[str, Exceeded] = field(default_factory=dict)
    cut_weights: Exceeded | None = None
    partial_metrics: dict[str, int] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[Round, float] = field(default_factory=dict)
    measures: bool = False
    measuring: "RoundReport | None" = None


@dataclass(slots=True)
class _Answer:
    """A reply that carries a message of the protocol."""

    client_id: ClientId
    message: bytes
    layout: bytes


class Session:
    """One session over the nodes that ``messages`` go to, all with the same content.

    Args:
        messages: the app's messages, one for each node.
        offer: the session's offer.
        exchange: sends messages and returns replies.
        workers: cores for the recovery of the masks.
        directory: in malicious mode, the enrolled keys.

    Attributes:
        layout: the layout of the replies in the sum; None before the first.
    """

    def __init__(
        self,
        messages: list[Message],
        offer: RoundOffer,
        exchange: Exchange,
        *,
        workers: int | None,
        directory: KeyDirectory | None,
    ) -> None:
        self._messages = dict(enumerate(messages))
        self._content: RecordDict = messages[0].content
        self._clients = {message.metadata.dst_node_id: client_id for client_id, message in self._messages.items()}
        self._offer = offer
        self._exchange = exchange
        self._workers = workers
        self._sent = arrays_of(self._content)
        server = Server(offer.params, self._messages, context=offer.context, nonce=offer.nonce, directory=directory)
        self._server = server
        # The exchange keeps time; for the driver, rounds take no time or forever.
        self._driver = ServerDriver(server, Deadlines())
        self.layout: RecordLayout | None = None
        self._bytes = {"down": 0, "up": 0}
        self._seconds: dict[Round, float] = {}

    def run(self) -> tuple[RoundReport, Average | Ranges | None]:
        """Run all rounds; return the average, the ranges if the session measures, or None if it was aborted."""
        self._driver.start(0.0)
        offer = self._offer.to_bytes()
        self._bytes["down"] += len(offer) * len(self._messages)
        contents = {client_id: pack_opening(Opening(client_id, offer)) for client_id in self._messages}
        while contents:
            started, round_ = time.perf_counter(), self._server.round
            deliveries = self._feed(list(self._answers(contents, round_)), round_)
            contents = {client_id: self._onward(data) for client_id, data in deliveries}
            self._seconds[round_] = time.perf_counter() - started
        if self._driver.job is not None:
            started = time.perf_counter()
            with RecoveryPool(self._workers) as pool:
                self._driver.finish(pool.run(self._driver.job), 0.0)
            self._seconds[Round.UNMASKING] += time.perf_counter() - started
        return self._result()

    def _onward(self, data: bytes) -> RecordDict:
        """Return a message of the protocol, with the app's records if clients train next."""
        self._bytes["down"] += len(data)
        trains = self._server.round is Round.MASKED_INPUT_COLLECTION
        return pack_onward(Onward(data), self._content if trains else None)

    def _answers(self, contents: dict[ClientId, RecordDict], round_: Round) -> Iterator[_Answer]:
        """Send each client its message, and yield its answer or the end of its part in the session."""
        for reply in self._exchange([self._message(i, content) for i, content in contents.items()], round_):
            client_id = self._clients.get(reply.metadata.src_node_id)
            if client_id is None:
                continue
            answer = None if reply.has_error() else unpack_answer(reply.content)
            if answer is None:
                reason = _reason(reply, round_)
                self._driver.drop(client_id, 0.0, DropReason.DISCONNECTED, reason)
                continue
            self._bytes["up"] += len(answer[0]) + len(answer[1])
            yield _Answer(client_id, *answer)

    def _message(self, client_id: ClientId, content: RecordDict) -> Message:
        metadata = self._messages[client_id].metadata
        return Message(
            content,
            dst_node_id=metadata.dst_node_id,
            message_type=metadata.message_type,
            ttl=metadata.ttl,
            group_id=metadata.group_id,
        )

    def _feed(self, answers: list[_Answer], round_: Round) -> list[tuple[ClientId, bytes]]:
        """Give the server the answers, and close its round."""
        if round_ is Round.MASKED_INPUT_COLLECTION:
            answers = self._of_one_layout(answers)
        deliveries: list[tuple[ClientId, bytes]] = []
        for answer in answers:
            deliveries += self._driver.data_received(answer.client_id, answer.message, 0.0)
        return deliveries or self._driver.tick(math.inf)

    def _of_one_layout(self, answers: list[_Answer]) -> list[_Answer]:
        """Return the inputs with the most common layout, which can be added up; the others leave before the sum."""
        if not answers:
            return answers
        # The order of the fields does not count; the strategy gets the most common order.
        written = Counter(answer.layout for answer in answers)
        forms = {data: _by_name(data) for data in written}
        (common, count), *others = Counter(forms[answer.layout] for answer in answers).most_common()
        try:
            self.layout = RecordLayout.from_bytes(
                next(data for data, _ in written.most_common() if forms[data] == common)
            )
            self._offer.encoding.check_layout(self.layout, self._sent)
        except RecordError as error:
            self.layout = None
            _LOG.error("secagg: the layout of %d replies cannot be used: %s", count, error)
        if others:
            _LOG.error(
                "secagg: %d replies do not have the records of the %d that agree, so they are left out: all clients "
                "must reply with the same arrays and metrics", sum(number for _, number in others), count,
            )  # fmt: skip
        added = [answer for answer in answers if forms[answer.layout] == common and self.layout is not None]
        for answer in answers:
            if answer not in added:
                self._driver.drop(
                    answer.client_id,
                    0.0,
                    DropReason.DISCONNECTED,
                    "the records of its reply differ from those of most replies",
                )
        return added

    def _result(self) -> tuple[RoundReport, Average | Ranges | None]:
        outcome = self._driver.outcome
        assert outcome is not None  # noqa: S101 - the rounds are over
        aborted: Aborted | str | None = None
        result: Average | Ranges | None = None
        included: tuple[ClientId, ...] = ()
        if isinstance(outcome, Completed):
            assert self.layout is not None  # noqa: S101 - there are inputs in the sum
            encoding, number = self._offer.encoding, len(outcome.included)
            try:
                if self._offer.private is not None:
                    weight = encoding.weight
                    result = private_average(self._offer.private, outcome.sum, number, self._sent, weight)
                elif self._offer.measures:
                    result = encoding.decode_ranges(outcome.sum, number)
                else:
                    result = encoding.decode(outcome.sum, number, self.layout, self._sent)
                included = outcome.included
            except FLError as error:
                # One client can cause this, so it must cost this round only, not the run.
                aborted = f"the sum cannot be decoded: {error}"
        elif isinstance(outcome, Aborted):
            aborted = outcome
        average = result if isinstance(result, Average) else None
        report = RoundReport(
            aborted=aborted,
            included=tuple(self._node(client_id) for client_id in included),
            dropped={
                self._node(client_id): (drop.round, _why(drop)) for client_id, drop in self._driver.dropped.items()
            },
            total_weight=0 if average is None else average.total_weight,
            clipped=0.0 if average is None else average.clipped,
            noise=math.nan if average is None else average.noise,
            partial_metrics={} if average is None else average.partial,
            bytes_down=self._bytes["down"],
            bytes_up=self._bytes["up"],
            seconds=self._seconds,
            measures=self._offer.measures,
        )
        return report, result

    def _node(self, client_id: ClientId) -> NodeId:
        node: NodeId = self._messages[client_id].metadata.dst_node_id
        return node


def _why(drop: ClientDropped) -> str:
    """Return why a node left, in its own words if it gave a reason."""
    return drop.detail if drop.reason is DropReason.DISCONNECTED and drop.detail else drop.reason.value


def _by_name(layout: bytes) -> bytes:
    """Return a layout's canonical form; other bytes stay as they are."""
    try:
        return RecordLayout.from_bytes(layout).by_name.to_bytes()
    except RecordError:
        return layout


def _reason(reply: Message, round_: Round) -> str:
    """Return why a node does not answer in the protocol, in one line."""
    if not reply.has_error():
        reason, is_apps = "its reply is not one of the protocol's", True
    else:
        reason = printable(" ".join(str(reply.error.reason).split()), REASON_LIMIT) or f"error {reply.error.code}"
        is_apps = reply.error.code in OF_THE_APP and not reason.startswith(REFUSAL)
    # Before the first answer only the mod should have seen the message.
    return f"{reason}; is secagg_mod() the first of its mods?" if is_apps and round_ is Round.ADVERTISE_KEYS else reason
