"""Nodes with identities and one record of their answers, on the loopback."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl.integrations.flower import SecAggGrid, secagg_mod
from secagg import Adversary, Identity
from tests.integrations.flower import apps
from tests.integrations.flower.apps import examples_of, initial_arrays, make_app, number_of, train_messages
from tests.integrations.flower.loopback import LoopbackGrid, context_bytes

NODES = 5
ALL = tuple(range(1000, 1000 + NODES))
VICTIM = 1002


class SignedFederation:
    """Nodes with identities and one record, and a server that knows their keys.

    Args:
        folder: folder of the record.
        grid: the kind of loopback.
        evaluate: protect evaluation too.
        mod: arguments of `secagg_mod`.
        loopback: arguments of the loopback.
    """

    def __init__(
        self,
        folder: Path,
        *,
        grid: type[LoopbackGrid] = LoopbackGrid,
        evaluate: bool = False,
        mod: dict[str, Any] | None = None,
        **loopback: Any,
    ) -> None:
        identities = [Identity.generate() for _ in range(NODES)]
        self.keys = [identity.public_key for identity in identities]
        self.trained: list[int] = []
        self._evaluate = evaluate
        protection = secagg_mod(
            identity=lambda context: identities[number_of(context)],
            enrolled=self.keys,
            claims=folder,
            protect_evaluate=evaluate,
            **(mod or {}),
        )
        self.loopback = grid(make_app(protection, train=self._train), NODES, **loopback)

    def _train(self, message: Message, context: Context) -> Message:
        """Learn only if the node was told a learning rate: its update is then alone in the sum."""
        self.trained.append(context.node_id)
        if "lr" not in context.run_config:
            return apps.train(message, context)
        rate, reply = np.float32(context.run_config["lr"]), apps.train(message, context)
        reply.content["arrays"] = ArrayRecord(
            {
                name: Array(np.asarray(array.numpy() - rate * gradient(context.node_id, array)))
                for name, array in message.content["arrays"].items()
            }
        )
        return reply

    def grid(self, **settings: Any) -> SecAggGrid:
        defaults = {"clip": 1.0, "max_examples": 100, "round_timeout": 0.02, "poll_seconds": 0.005}
        return SecAggGrid(
            self.loopback,
            adversary=Adversary.MALICIOUS,
            enrolled=self.keys,
            protect_evaluate=self._evaluate,
            **{**defaults, **settings},
        )

    def round(
        self, content: RecordDict | None = None, nodes: Sequence[int] = ALL, **settings: Any
    ) -> tuple[RecordDict | None, Any]:
        """Run one round with these nodes; return the average or None, and the report. It has one session by default."""
        grid = self.grid(**settings)
        messages = [m for m in train_messages(grid, content) if m.metadata.dst_node_id in nodes]
        replies = list(grid.send_and_receive(messages, timeout=0.02))
        return (replies[0].content if replies else None), grid.reports[0]

    def tell(self, node: int, run_config: dict[str, Any], run_id: int = 1, **config: Any) -> None:
        """Return a fresh context for a node, with the SuperLink's run settings, and the node's own configuration."""
        self.loopback.contexts[node] = context_bytes(node, node - 1000, NODES, config, run_config, run_id)


def gradient(node: int, array: Array) -> np.ndarray:
    return np.asarray(np.random.default_rng(node).uniform(-0.5, 0.5, array.shape), np.float32)


def content(number: int | None = 1, *, seed: int = 0, **config: Any) -> RecordDict:
    """Return a round's content; ``number`` is the one that strategies give it."""
    if number is not None:
        config["server-round"] = number
    return RecordDict({"arrays": initial_arrays(seed), "config": ConfigRecord({"lr": 0.1, **config})})


def total(nodes: Iterable[int]) -> int:
    return sum(examples_of(node - 1000) for node in nodes)
