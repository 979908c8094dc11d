"""Flower's nodes as a front for a server that lies at random: every message and every state over Flower's own wire.

Each round has two sessions: one that measures, and one for the update, of the same content unless the server lies.

python -m tests.integrations.flower.lying_grid --sessions 500
"""

import logging
import sys
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto

from fl.aggregation.scales import Scales
from fl.integrations.flower.app_view import run_digest
from fl.integrations.flower.content import content_digest
from fl.integrations.flower.mod import SecAggMod
from fl.integrations.flower.offer import RoundOffer
from fl.integrations.flower.wire import Onward, Opening, pack_onward, pack_opening, unpack_answer
from fl.integrations.records import RecordEncoding
from secagg import Adversary, Client
from tests.adversarial.lies.figures import Lie
from tests.adversarial.lies.fronts import MOST_CLIENTS, SmallGraphs, Terms
from tests.adversarial.lies.ledger import Line, Refused
from tests.adversarial.random_lies import MakeFront, main
from tests.integrations.flower.apps import make_app
from tests.integrations.flower.loopback import context_bytes, handle
from tests.support.sessions import identity_of

RUN_CONFIG = {"lr": 0.5}
OTHER_MODEL = b"another model"
"""The extra messages of `tests.adversarial.lies.liar`."""


def encoding_of(num_clients: int, size: int, *, measures: bool) -> RecordEncoding:
    """Return an encoding of replies with one array of this size."""
    scales = None if measures else Scales((1.0,), 8)
    return RecordEncoding(
        sizes=(size,), num_clients=num_clients, scales=scales, weight="num-examples", value_bits=8, max_metrics=0,
        metric_bound=1.0,
    )  # fmt: skip


def sizes(num_clients: int) -> dict[str, int]:
    """Return the sizes of all sessions: the array is so large that both kinds have vectors of one length."""
    return {"vector_length": encoding_of(num_clients, 1, measures=True).vector_length, "value_bits": 8}


def round_of(terms: Terms) -> tuple[int, bool]:
    """Return a session's round, and whether it measures: sessions 1 and 2 are of round 1, and so on."""
    return (terms.number + 1) // 2, terms.number % 2 == 1


def content_of(terms: Terms) -> RecordDict:
    """Return the content to train on: a round's own model, or another one in some sessions and in a lie."""
    (seed, other, *_) = terms.model
    number, _ = round_of(terms)
    if other >= 24 and terms.model != OTHER_MODEL:
        seed = number
    size = 100
    size += terms.params.vector_length - encoding_of(terms.params.num_clients, size, measures=False).vector_length
    arrays = ArrayRecord({"w": Array(np.full(size, seed / 256, dtype=np.float32))})
    return RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": number})})


def offer_of(terms: Terms) -> RoundOffer:
    content = content_of(terms)
    size = content["arrays"]["w"].numpy().size
    encoding = encoding_of(terms.params.num_clients, size, measures=round_of(terms)[1])
    digest = content_digest("train", content)
    return RoundOffer(terms.params, encoding, terms.nonce, digest, run_digest(1, "", RUN_CONFIG))


class FlowerLine:
    """One session of one node, as the SuperLink drives it."""

    def __init__(self, front: "FlowerFront", node: int, terms: Terms) -> None:
        self._front, self._node = front, node
        self.content, self.group = content_of(terms), ""
        self.input: list[int] | None = None
        self.basis: Hashable = None
        self._before = front.contexts[node]
        self.twists: dict[Lie, Callable[[], None]] = {
            Lie.OTHER_SETTINGS: self._other_settings,
            Lie.OTHER_CONTENT: self._other_content,
        }

    def open(self, client_id: int, offer: RoundOffer) -> bytes:
        return self._do(pack_opening(Opening(client_id, offer.to_bytes())))

    def tell(self, data: bytes, *, again: bool = False) -> bytes:
        return self._do(pack_onward(Onward(data), self.content))

    def tell_both(self, first: bytes, second: bytes) -> list[bytes | None]:
        """Give the node's state to two processes that each handle a message; one of them saves its state last."""
        state = self._front.contexts[self._node]
        answers: list[bytes | None] = []
        for data in (first, second):
            self._front.contexts[self._node] = state
            try:
                answers.append(self.tell(data))
            except Refused:
                answers.append(None)
        return answers

    def crash(self) -> None:
        """End the process that gave the last answer before the node's state was saved."""
        self._front.contexts[self._node] = self._before

    def _do(self, content: RecordDict) -> bytes:
        front = self._front
        self._before = front.contexts[self._node]
        message = Message(content, self._node, "train", group_id=self.group)
        message.metadata.__dict__["_message_id"] = str(uuid4())
        data = message_to_proto(message).SerializeToString()
        front.given, front.reasons[:] = None, []
        reply, front.contexts[self._node] = handle(front.app, data, self._before)
        said = message_from_proto(MessageProto.FromString(reply))
        if said.has_error():
            raise Refused(front.reasons[-1] if front.reasons else said.error.reason)
        if front.given is not None:
            # The input of the training behind the update, which may have been in an earlier session.
            self.input, self.basis = front.given, front.trained_on[self._node]
        answer = unpack_answer(said.content)
        assert answer is not None
        return answer[0]

    # --- Other lies of the SuperLink ----------------------------------------------------------------------------------

    def _other_settings(self) -> None:
        """Change the run's configuration, or the message's group."""
        if self._front.rng.random() < 0.5:
            self.group = "another"
            return
        context = context_from_proto(ContextProto.FromString(self._front.contexts[self._node]))
        context.run_config["lr"] = 0.25
        self._front.contexts[self._node] = context_to_proto(context).SerializeToString()

    def _other_content(self) -> None:
        if self._front.rng.random() < 0.5:
            self.content["arrays"] = ArrayRecord({"w": Array(np.zeros_like(self.content["arrays"]["w"].numpy()))})
        else:
            self.content["config"] = ConfigRecord({**self.content["config"], "lr": 0.25})


class FlowerFront:
    """Nodes 0, 1, ..., their states and one record of their answers."""

    answers_once = True
    gives_numbers = True
    sizes = staticmethod(sizes)

    def __init__(self, mode: Adversary, folder: Path, rng: Random) -> None:
        self.rng = rng
        who: dict[str, Any] = {"identity": None, "enrolled": None}
        if mode is Adversary.MALICIOUS:
            who = {
                "identity": lambda context: identity_of(context.node_id),
                "enrolled": [identity_of(number).public_key for number in range(MOST_CLIENTS)],
            }
        mod = SecAggMod(
            policy=SmallGraphs(adversary=mode), protected=frozenset({"train"}), claims=folder / str(uuid4()),
            training="training", max_rounds=1000, **who,
        )  # fmt: skip
        self.app = make_app(mod, train=self._train)
        self.contexts: dict[int, bytes] = {}
        self.given: list[int] | None = None
        self.trained_on: dict[int, Hashable] = {}
        self.reasons: list[str] = []
        self._log = _Reasons(self.reasons)
        self._patches = ExitStack()
        submit = Client.submit_input

        def watched(client: Client, vector: Any) -> Any:
            self.given = vector.tolist()
            return submit(client, vector)

        self._patches.enter_context(patch.object(Client, "submit_input", watched))
        logging.getLogger("flwr.secagg").addHandler(self._log)

    def _train(self, message: Message, context: Context) -> Message:
        """Return an update without information; for every request, the node does the same again."""
        seen = content_digest(message.metadata.message_type, message.content), repr(context.run_config)
        self.trained_on[context.node_id] = seen
        received = message.content["arrays"]["w"].numpy()
        number = message.content["config"]["server-round"]
        change = np.random.default_rng((context.node_id, number)).uniform(-0.9, 0.9, received.shape)
        arrays = ArrayRecord({"w": Array((received + change).astype(np.float32))})
        metrics = MetricRecord({"num-examples": 1 + context.node_id % 8})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    def open(self, client_id: int, owner: int, terms: Terms) -> tuple[Line, bytes]:
        fresh = partial(context_bytes, owner, owner, MOST_CLIENTS, {}, dict(RUN_CONFIG))
        self.contexts[owner] = _with_settings(self.contexts[owner]) if owner in self.contexts else fresh()
        line = FlowerLine(self, owner, terms)
        return line, line.open(client_id, offer_of(terms))

    def context(self, terms: Terms) -> bytes:
        return offer_of(terms).context

    def same_input(self, owner: int, terms: Terms) -> tuple[int, int]:
        return owner, terms.number

    def close(self) -> None:
        self._patches.close()
        logging.getLogger("flwr.secagg").removeHandler(self._log)


def _with_settings(data: bytes) -> bytes:
    """Return the context with the run's true configuration again."""
    context = context_from_proto(ContextProto.FromString(data))
    context.run_config = dict(RUN_CONFIG)
    return bytes(context_to_proto(context).SerializeToString())


class _Reasons(logging.Handler):
    """A log handler that keeps why nodes leave: they tell nobody else."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = reasons

    def emit(self, record: logging.LogRecord) -> None:
        error = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        rule = getattr(error, "rule", None)
        self._kept.append(type(error).__name__ if rule is None else rule.name)


def flower(folder: Path) -> MakeFront:
    """Return a front of nodes (a `MakeFront`)."""
    return lambda mode, rng: FlowerFront(mode, folder, rng)


if __name__ == "__main__":
    logging.getLogger("flwr.secagg").propagate = False
    sys.exit(main({"flower": flower}))
