"""What this adapter builds on in Flower, asked of Flower itself: where something moves, the test says what."""

import inspect
from pathlib import Path
from typing import Any

import pytest

flwr = pytest.importorskip("flwr", reason="needs Flower, which has an environment of its own: make test-flower")

from fl.integrations.flower import SecAggGrid, _flwr


def moved(what: str) -> str:
    return f"flwr {flwr.__version__} has moved an extension point that fl.integrations.flower builds on: {what}"


def test_every_name_of_flowers_comes_from_one_file() -> None:
    """So that there is one place to look at when one moves."""
    folder = Path(_flwr.__file__).parent
    for path in folder.glob("*.py"):
        if path.name != "_flwr.py":
            assert "from flwr" not in path.read_text(encoding="utf-8"), path.name
            assert "import flwr" not in path.read_text(encoding="utf-8"), path.name


def test_the_page_names_the_releases_that_were_tried() -> None:
    page = (Path(__file__).parents[3] / "docs" / "integrations" / "flower.md").read_text(encoding="utf-8")
    versions = page[page.index("## Versions") :]
    for version in _flwr.TRIED.split(" to "):
        assert f"{version}." in versions


def test_mods_are_called_with_message_context_and_the_next() -> None:
    from flwr.clientapp import typing

    names = [getattr(part, "__name__", str(part)) for part in typing.Mod.__args__]
    assert names[:2] == ["Message", "Context"], moved(f"Mod is now {typing.Mod}")
    assert len(names) == 4, moved(f"Mod is now {typing.Mod}")


def test_mods_see_every_message_outermost_first() -> None:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    from tests.integrations.flower.loopback import LoopbackGrid

    order: list[str] = []

    def noting(name: str) -> Any:
        def mod(message: Message, context: Context, call_next: Any) -> Message:
            order.append(name)
            return call_next(message, context)

        return mod

    app = ClientApp(mods=[noting("first"), noting("second")])
    app.train(mods=[noting("third")])(lambda message, context: Message(RecordDict(), reply_to=message))
    LoopbackGrid(app, 1).send_and_receive([Message(RecordDict(), 1000, "train")])
    assert order == ["first", "second", "third"], moved(f"mods are called in the order {order}")


def test_a_grid_pushes_and_pulls() -> None:
    from flwr.serverapp import Grid

    wanted = {
        "push_messages": ["self", "messages"],
        "pull_messages": ["self", "message_ids"],
        "send_and_receive": ["self", "messages", "timeout"],
        "get_node_ids": ["self"],
        "get_nodes": ["self"],
    }
    for name, parameters in wanted.items():
        found = list(inspect.signature(getattr(Grid, name)).parameters)
        assert found == parameters, moved(f"Grid.{name}{tuple(found)}")
    new = Grid.__abstractmethods__ - set(vars(SecAggGrid))
    assert not new, moved(f"Grid has new abstract methods: {sorted(new)}")


def test_a_strategy_aggregates_the_replies_of_one_call() -> None:
    from flwr.serverapp.strategy import Strategy

    source = inspect.getsource(Strategy.start)
    train = source.index("self.configure_train(")
    assert source.count("grid.send_and_receive(") == 2, moved("Strategy.start sends another number of times a round")
    assert source.index("grid.send_and_receive(") < train < source.index("self.aggregate_train("), moved(
        "Strategy.start does not send what configure_train gives to aggregate_train"
    )


def test_replies_need_no_running_task() -> None:
    """The one reply is made of the message that it answers, in the server's process."""
    from flwr.app import Message, RecordDict

    message = Message(RecordDict(), 1000, "train", group_id="7", ttl=60.0)
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.src_node_id == 1000, moved("Message(reply_to=...)")
    assert reply.metadata.group_id == "7", moved("Message(reply_to=...)")


def test_context_state_takes_bytes() -> None:
    from flwr.app import ConfigRecord, Context, RecordDict
    from flwr.common.serde import context_from_proto, context_to_proto

    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    blob = bytes(range(256)) * 500
    context.state["secagg.client"] = ConfigRecord({"client": blob})
    kept = context_from_proto(context_to_proto(context)).state["secagg.client"]["client"]
    assert kept == blob, moved("Context.state does not keep bytes in ConfigRecords")


def test_arrays_carry_bytes_as_they_are() -> None:
    from flwr.app import Array

    array = Array(dtype="uint8", shape=(3,), stype="secagg.message", data=b"abc")
    assert array.data == b"abc", moved("Array(dtype, shape, stype, data)")
    with pytest.raises(TypeError):
        array.numpy()
