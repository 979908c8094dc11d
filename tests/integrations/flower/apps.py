"""ClientApps for the tests: training is a known function of the node's number, so that averages are known."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

SHAPES = {"layer.weight": (7, 5), "layer.bias": (5,), "scale": ()}


def initial_arrays(seed: int = 0) -> ArrayRecord:
    """Return a small model, with an array of no dimensions."""
    rng = np.random.default_rng(seed)
    return ArrayRecord(
        {name: Array(np.asarray(rng.normal(size=shape), dtype=np.float32)) for name, shape in SHAPES.items()}
    )


def number_of(context: Context) -> int:
    """Return the node's number, from 0."""
    return int(context.node_config["partition-id"])


def examples_of(number: int) -> int:
    """Return a node's number of examples; nodes differ."""
    return 20 + 13 * number


def change(array: np.ndarray, number: int) -> np.ndarray:
    """Return the node's change of an array: each element moves by less than 0.5, differently in each node."""
    rng = np.random.default_rng((number, array.size))
    return np.asarray(array * np.float32(0.97) + rng.uniform(-0.3, 0.3, array.shape), dtype=array.dtype)


def train(message: Message, context: Context) -> Message:
    """Return the changed arrays with loss and examples."""
    number = number_of(context)
    arrays = message.content["arrays"]
    changed = {name: Array(change(array.numpy(), number)) for name, array in arrays.items()}
    metrics = MetricRecord(
        {"train_loss": 2.5 / (1 + number), "num-examples": examples_of(number), "per_class": [0.25 * number, 1.0]}
    )
    return Message(RecordDict({"arrays": ArrayRecord(changed), "metrics": metrics}), reply_to=message)


def evaluate(message: Message, context: Context) -> Message:
    """Return accuracy and examples."""
    number = number_of(context)
    metrics = MetricRecord({"eval_acc": 0.1 * number, "num-examples": examples_of(number)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def make_app(
    *mods: Any,
    train: Callable[[Message, Context], Message] = train,
    evaluate: Callable[[Message, Context], Message] = evaluate,
) -> ClientApp:
    """Return an app with these mods."""
    app = ClientApp(mods=list(mods))
    app.train()(train)
    app.evaluate()(evaluate)
    return app


def train_messages(grid: Any, content: RecordDict | None = None, message_type: str = "train") -> list[Message]:
    """Return one message for each node, as strategies make them."""
    if content is None:
        content = RecordDict({"arrays": initial_arrays(), "config": ConfigRecord({"server-round": 1, "lr": 0.1})})
    return [Message(content, node, message_type) for node in grid.get_node_ids()]
