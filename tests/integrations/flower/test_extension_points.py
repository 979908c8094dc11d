"""The parts of Flower that this adapter builds on, checked in Flower itself: the test names a part that moves."""

import inspect
from pathlib import Path
from typing import Any

import pytest

flwr = pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from fl.integrations.flower import SecAggGrid, _flwr


def moved(what: str) -> str:
    return f"flwr {flwr.__version__} has moved an extension point that fl.integrations.flower builds on: {what}"


def test_every_name_of_flowers_comes_from_one_file() -> None:
    """If a name moves, only one file has to change."""
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
    assert source.count("grid.send_and_receive(") == 2, moved(
        "Strategy.start sends a different number of times in a round"
    )
    assert source.index("grid.send_and_receive(") < train < source.index("self.aggregate_train("), moved(
        "Strategy.start does not send what configure_train gives to aggregate_train"
    )


def test_averaging_strategies_aggregate_through_fedavg() -> None:
    """The average is looked for there: see averaging.py."""
    from flwr.serverapp import strategy as strategies

    from fl.integrations.flower.strategies import _AVERAGING

    for name in _AVERAGING:
        kind = getattr(strategies, name, None) or getattr(strategies.fedopt, name)
        for cls in kind.__mro__[: kind.__mro__.index(strategies.FedAvg)]:
            own = vars(cls).get("aggregate_train")
            assert own is None or "super().aggregate_train(" in inspect.getsource(own), moved(f"{name}.aggregate_train")
    source = inspect.getsource(strategies.FedAvg.aggregate_train)
    assert "msg.content" in source, moved("FedAvg.aggregate_train")


def test_noise_warns_of_the_number_of_replies() -> None:
    assert _flwr.CLIENTS_DISCREPANCY_WARNING, moved("strategy.dp_fixed_clipping.CLIENTS_DISCREPANCY_WARNING")


def test_replies_need_no_running_task() -> None:
    """The one reply is made from the message that it answers, in the server's process."""
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


# The treatment of each part of a message and a context before the app sees it; see app_view.py.
CONTEXT = {
    "run_id": "bound", "run_config": "bound", "series_id": "neutral",
    "node_id": "own", "node_config": "own", "state": "own",
}  # fmt: skip
METADATA = {
    "run_id": "bound", "message_type": "bound", "group_id": "bound",
    "dst_node_id": "own", "created_at": "own",
    "message_id": "neutral", "src_node_id": "neutral", "reply_to_message_id": "neutral", "ttl": "neutral",
    "src_task_id": "neutral", "dst_task_id": "neutral", "delivered_at": "neutral",
}  # fmt: skip
MESSAGE = {"metadata": "above", "content": "bound", "error": "none"}


def parts(thing: Any) -> set[str]:
    return {name.lstrip("_") for name in vars(thing)}


def properties(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if isinstance(value, property)}


def sent() -> tuple[Any, Any]:
    from flwr.app import ConfigRecord, Context, Message, RecordDict

    content = RecordDict({"b": ConfigRecord({"y": 1, "x": 2}), "a": ConfigRecord({"z": [3]})})
    context = Context(
        run_id=1, node_id=2, node_config={"n": 1}, state=RecordDict(), run_config={"b": 1, "a": 2.5}, series_id=0
    )
    return Message(content, 2, "train", group_id="g"), context


def test_every_part_that_reaches_the_app_was_looked_at() -> None:
    """A new part in Flower may differ between nodes: bind it or make it neutral in app_view.py first."""
    from dataclasses import fields

    from flwr.app import Context, Message, Metadata

    message, context = sent()
    found = parts(context) | properties(Context) | {field.name for field in fields(Context)}
    assert found == CONTEXT.keys(), moved(f"Context has the parts {sorted(found)}")
    found = parts(message.metadata) | properties(Metadata)
    assert found == METADATA.keys(), moved(f"Metadata has the parts {sorted(found)}")
    # `children` are the content.
    found = parts(message) | properties(Message) - {"children"}
    assert found == MESSAGE.keys(), moved(f"Message has the parts {sorted(found)}")


def test_parts_neither_bound_nor_the_nodes_own_are_the_same_for_all() -> None:
    """A SuperLink that varies all other parts shows the app the same as every other one."""
    from flwr.app import RecordDict

    from fl.integrations.flower.app_view import view_of
    from fl.integrations.flower.content import content_digest

    message, context = sent()
    plain, own = view_of(message, message.content, context)
    strange, other = sent()
    for name, kind in METADATA.items():
        if kind == "neutral" or name == "created_at":
            vars(strange.metadata)[f"_{name}"] = 77 if "id" in name else 77.5
    other.series_id = 77
    other.run_config = dict(reversed(other.run_config.items()))
    turned = RecordDict(
        {name: type(record)(dict(reversed(record.items()))) for name, record in reversed(strange.content.items())}
    )
    assert content_digest("train", turned) == content_digest("train", message.content)
    own.state["b"] = other.state["b"] = message.content["b"]
    seen, view = view_of(strange, turned, other)

    for name in METADATA.keys() - {"created_at"}:
        assert getattr(seen.metadata, name) == getattr(plain.metadata, name), name
    assert seen.metadata.created_at != strange.metadata.created_at
    for name in CONTEXT:
        assert getattr(view, name) == getattr(own, name), name
    for one, another in ((seen.content, plain.content), (view.run_config, own.run_config)):
        assert list(one) == list(another)
    assert [list(record) for record in seen.content.values()] == [list(record) for record in plain.content.values()]
    view.state["b"]["x"] = 3
    assert other.state["b"]["x"] == 2
    assert (view.run_id, view.node_id, view.node_config) == (1, 2, {"n": 1})
    assert seen.metadata.message_type == "train"
    assert seen.metadata.group_id == "g"


def test_the_grid_knows_the_run_and_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run says which app it is of, and the overrides of that app's configuration: nodes are told both."""
    from flwr.supercore.run import Run

    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    run = Run.create_empty(1)
    assert _flwr.get_fused_config(run) == {}, moved("get_fused_config of a run of no app")
    run.fab_id, run.fab_version, run.fab_hash = "secagg/quickstart", "1.0.0", "0123456789abcdef"
    run.override_config = {"lr": 0.5}
    app = tmp_path / "apps" / "secagg.quickstart.1.0.0.01234567"
    app.mkdir(parents=True)
    (app / "pyproject.toml").write_text(
        (Path(__file__).parents[3] / "examples/flower_quickstart/pyproject.toml").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    config = _flwr.get_fused_config(run)
    assert (config["lr"], config["local-epochs"]) == (0.5, 2), moved("get_fused_config")


def test_strategies_number_their_rounds() -> None:
    from flwr.serverapp.strategy import FedAvg

    for method in (FedAvg.configure_train, FedAvg.configure_evaluate):
        assert 'config["server-round"] = server_round' in inspect.getsource(method), moved("config['server-round']")


def test_arrays_carry_bytes_as_they_are() -> None:
    from flwr.app import Array

    array = Array(dtype="uint8", shape=(3,), stype="secagg.message", data=b"abc")
    assert array.data == b"abc", moved("Array(dtype, shape, stype, data)")
    with pytest.raises(TypeError):
        array.numpy()
