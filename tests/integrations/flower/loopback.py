"""A grid that passes Flower's messages to real ClientApps: each is serialized in both directions.

A node is only its app and the bytes of its context: anything that a handler keeps elsewhere is lost, as when a separate
process handles each message. With ``processes=True`` a separate process does.
"""

import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


class Fault(Enum):
    """The fate of one message."""

    SILENT = "the node never answers"
    ERROR = "the node answers with an error, before it has done anything"
    LATE = "the node does all that was asked, and its reply comes too late"


Faults = Callable[[int, int], Fault | None]
"""A fault by a node's number (from 0) and the place of the message in its session (from 0)."""


class LoopbackGrid(Grid):
    """Nodes 1000, 1001, ..., each with ``app`` and its own context."""

    def __init__(
        self,
        app: ClientApp,
        num_nodes: int,
        *,
        faults: Faults = lambda node, step: None,
        processes: bool = False,
        node_config: Callable[[int], dict[str, Any]] = lambda number: {},
        run_config: dict[str, Any] | None = None,
    ) -> None:
        self._app = app
        self._faults = faults
        self._processes = processes
        self.contexts = {
            1000 + number: context_bytes(1000 + number, number, num_nodes, node_config(number), run_config)
            for number in range(num_nodes)
        }
        self._replies: dict[str, bytes] = {}
        self._steps: defaultdict[int, int] = defaultdict(int)
        self.seen: list[Message] = []
        """All answers of nodes, as they came over the wire."""
        self.sent: list[Message] = []

    @property
    def run(self) -> Any:
        return None

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [self._replies.pop(message_id) for message_id in list(message_ids) if message_id in self._replies]
        replies = [message_from_proto(MessageProto.FromString(data)) for data in found]
        self.seen += replies
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _push(self, message: Message) -> str:
        message.metadata.__dict__["_message_id"] = str(uuid4())
        data = message_to_proto(message).SerializeToString()
        self.sent.append(message_from_proto(MessageProto.FromString(data)))
        node = message.metadata.dst_node_id
        record = message.content.get("secagg")
        if record is not None and "offer" in record:
            self._steps[node] = 0
        fault = self._faults(node - 1000, self._steps[node])
        self._steps[node] += 1
        if fault is Fault.ERROR:
            error = Message(Error(code=0, reason="the node is tired"), reply_to=message)
            self._replies[message.metadata.message_id] = message_to_proto(error).SerializeToString()
        elif fault is not Fault.SILENT:
            reply, self.contexts[node] = self._handle(data, self.contexts[node])
            if fault is not Fault.LATE:
                self._replies[message.metadata.message_id] = reply
        return str(message.metadata.message_id)

    def _handle(self, message: bytes, context: bytes) -> tuple[bytes, bytes]:
        return (in_new_process if self._processes else handle)(self._app, message, context)


def context_bytes(
    node: int,
    number: int,
    num_nodes: int,
    config: dict[str, Any],
    run_config: dict[str, Any] | None = None,
    run_id: int = 1,
) -> bytes:
    """Return a fresh node's context."""
    context = Context(
        run_id=run_id,
        node_id=node,
        node_config={"partition-id": number, "num-partitions": num_nodes, **config},
        state=RecordDict(),
        run_config=run_config or {},
    )
    return bytes(context_to_proto(context).SerializeToString())


def handle(app: ClientApp, message: bytes, context: bytes) -> tuple[bytes, bytes]:
    """Return a node's answer and its new context; an app that raises gives Flower's error reply, and saves nothing."""
    received = message_from_proto(MessageProto.FromString(message))
    own = context_from_proto(ContextProto.FromString(context))
    try:
        reply = app(received, own)
    except Exception as error:  # noqa: BLE001 - as Flower does
        reply = Message(Error(code=2, reason=f"{type(error)}: {error}"), reply_to=received)
        return message_to_proto(reply).SerializeToString(), context
    return message_to_proto(reply).SerializeToString(), context_to_proto(own).SerializeToString()


def in_new_process(
    app: ClientApp, message: bytes, context: bytes, *, handle: Callable[..., tuple[bytes, bytes]] = handle
) -> tuple[bytes, bytes]:
    """Run `handle` in a process that ends with it; EOFError if it ends without an answer."""
    forked = multiprocessing.get_context("fork")
    receiver, sender = forked.Pipe(duplex=False)
    process = forked.Process(target=lambda: sender.send(handle(app, message, context)))
    process.start()
    sender.close()
    try:
        answer: tuple[bytes, bytes] = receiver.recv()
    finally:
        process.join()
        receiver.close()
    return answer
