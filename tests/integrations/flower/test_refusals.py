"""Impossible set-ups are refused by a clear error, before any client has trained."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import FedAvg

from fl.errors import ConfigError
from fl.integrations.flower import FlowerError, SecAggGrid, StrategyRefusedError, secagg_mod
from fl.integrations.flower.mod import _warn_of_trust
from secagg import Adversary, GraphKind, Identity
from tests.integrations.flower.apps import initial_arrays, make_app, train_messages
from tests.integrations.flower.loopback import LoopbackGrid


class OwnAggregation(FedAvg):
    """A user's strategy that uses replies in an unknown way."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        (reply,) = list(replies)
        return reply.content["arrays"], MetricRecord({"loss": 1.0})


class OwnAveraging(OwnAggregation):
    """The same, but its author vouches for it."""

    secagg_averages = True


class Saving(FedAvg):
    """A strategy that logs and saves, like Flower's how-to and FlowerTune's strategy."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        self.sizes = [len(reply.content["arrays"]) for reply in replies]
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.saved = arrays
        return arrays, metrics


class Picking(FedAvg):
    """A strategy that passes something else to the inherited aggregation than it was given."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        made = [Message(reply.content, reply_to=Message(RecordDict(), 1, "train")) for reply in replies]
        return super().aggregate_train(server_round, made)


class SavingMedian(strategies.FedMedian):
    """A user's class over one that cannot work."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, replies)


class OwnConfiguration(FedAvg):
    """A user's strategy that aggregates as Flower does."""

    def configure_train(self, *arguments: Any, **options: Any) -> Any:
        return super().configure_train(*arguments, **options)


NOT_AVERAGING = {
    "FedMedian": lambda: strategies.FedMedian(),
    "FedTrimmedAvg": lambda: strategies.FedTrimmedAvg(),
    "Krum": lambda: strategies.Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: strategies.MultiKrum(num_malicious_nodes=1),
    "Bulyan": lambda: strategies.Bulyan(num_malicious_nodes=1),
    "QFedAvg": lambda: strategies.QFedAvg(client_learning_rate=0.1),
    "FedXgbBagging": lambda: strategies.FedXgbBagging(),
    "FedXgbCyclic": lambda: strategies.FedXgbCyclic(),
    "ServerSideFixedClipping": lambda: strategies.DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 4),
    "ServerSideAdaptiveClipping": lambda: strategies.DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(), 0.1, 4),
    "ClientSideAdaptiveClipping": lambda: strategies.DifferentialPrivacyClientSideAdaptiveClipping(FedAvg(), 0.1, 4),
    "an own class over a median": lambda: SavingMedian(),
    "ClientSideFixedClipping of a median": lambda: strategies.DifferentialPrivacyClientSideFixedClipping(
        strategies.FedMedian(), 1.0, 1.0, 4
    ),
}


@pytest.mark.parametrize("name", NOT_AVERAGING)
def test_a_strategy_that_looks_at_single_replies_is_refused(name: str) -> None:
    loopback = LoopbackGrid(make_app(secagg_mod()), 4)
    arrays = ArrayRecord([np.zeros(3, np.uint8)]) if "Xgb" in name else initial_arrays()
    # Under the familiar name: "Krum cannot", and not "MultiKrum cannot".
    known = type(NOT_AVERAGING[name]()).__name__ if "median" not in name else "FedMedian"
    with pytest.raises(StrategyRefusedError, match=f"^{known} cannot be used with secure aggregation"):
        NOT_AVERAGING[name]().start(grid=SecAggGrid(loopback), initial_arrays=arrays, num_rounds=1)
    assert loopback.sent == []
    with pytest.raises(StrategyRefusedError):
        SecAggGrid(loopback, strategy=NOT_AVERAGING[name]())


def test_all_of_flowers_strategies_are_judged() -> None:
    """A new strategy in Flower is refused until somebody has checked it: then it belongs to one list."""
    from fl.integrations.flower.strategies import _AVERAGING, _WHY_NOT, _WRAPPERS

    known = _AVERAGING | _WRAPPERS | _WHY_NOT.keys()
    assert set(strategies.__all__) - {"Result", "Strategy"} <= known


def test_a_custom_strategy_is_judged_by_its_aggregation() -> None:
    loopback = LoopbackGrid(make_app(secagg_mod()), 3)
    with pytest.raises(StrategyRefusedError, match="secagg_averages = True"):
        OwnAggregation().start(grid=SecAggGrid(loopback), initial_arrays=initial_arrays(), num_rounds=1)
    assert loopback.sent == []
    for make in (OwnAveraging, OwnConfiguration):
        result = make().start(grid=SecAggGrid(loopback), initial_arrays=initial_arrays(), num_rounds=1)
        assert result.train_metrics_clientapp[1]


def test_a_strategy_that_logs_and_saves_works(caplog: pytest.LogCaptureFixture) -> None:
    strategy = Saving()
    result = strategy.start(
        grid=SecAggGrid(LoopbackGrid(make_app(secagg_mod()), 3)), initial_arrays=initial_arrays(), num_rounds=2
    )
    assert sorted(result.train_metrics_clientapp) == [1, 2]
    assert list(strategy.saved) == list(initial_arrays())
    assert strategy.sizes == [3]
    assert caplog.text.count("Saving.aggregate_train sees one reply") == 1


def test_a_strategy_that_hands_on_something_else_is_found_out() -> None:
    loopback = LoopbackGrid(make_app(secagg_mod()), 3)
    with pytest.raises(StrategyRefusedError, match=r"Picking\.aggregate_train did not pass"):
        Picking().start(grid=SecAggGrid(loopback), initial_arrays=initial_arrays(), num_rounds=2)
    # In the clear any reply is allowed.
    strategy = Picking()
    assert strategy.start(grid=LoopbackGrid(make_app(), 3), initial_arrays=initial_arrays(), num_rounds=1).arrays


def test_an_accountant_counts_replies() -> None:
    strategy = strategies.DifferentialPrivacyClientSideFixedClipping(FedAvg(), 1.0, 1.0, 4)
    strategy.accountant = object()
    with pytest.raises(StrategyRefusedError, match="accountant"):
        SecAggGrid(LoopbackGrid(make_app(secagg_mod()), 4), strategy=strategy)


def test_custom_metrics_give_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    SecAggGrid(LoopbackGrid(make_app(), 4), strategy=FedAvg(train_metrics_aggr_fn=lambda records, weight: None))
    assert "one reply, the clients' average" in caplog.text


def test_nodes_are_sent_the_same() -> None:
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), 3))
    messages = train_messages(grid)
    content = RecordDict({"arrays": initial_arrays(seed=1), "config": ConfigRecord({"server-round": 1, "lr": 0.1})})
    messages[1] = Message(content, messages[1].metadata.dst_node_id, "train")
    with pytest.raises(FlowerError, match="node 1001 would be sent other records"):
        grid.send_and_receive(messages)
    messages[1] = Message(messages[0].content, messages[1].metadata.dst_node_id, "train", group_id="7")
    with pytest.raises(FlowerError, match="or another group"):
        grid.send_and_receive(messages)
    # Equal content in another object is the same content.
    messages[1] = Message(train_messages(grid)[0].content, messages[1].metadata.dst_node_id, "train")
    assert len(list(grid.send_and_receive(messages, timeout=5))) == 1


def test_messages_that_cannot_share_a_session_are_refused() -> None:
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), 3))
    messages = train_messages(grid)
    with pytest.raises(FlowerError, match="two train messages"):
        grid.send_and_receive([*messages, messages[0]])
    with pytest.raises(FlowerError, match="over 1 nodes is impossible"):
        grid.send_and_receive(messages[:1])
    with pytest.raises(FlowerError, match="in one call"):
        grid.send_and_receive([*messages, Message(RecordDict(), 1000, "query")])
    with pytest.raises(FlowerError, match="go through send_and_receive"):
        grid.push_messages(messages)
    with pytest.raises(FlowerError, match="the name of the protocol's own record"):
        grid.send_and_receive(train_messages(grid, RecordDict({"secagg": ConfigRecord({"lr": 0.1})})))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"dropout": 0.7, "graph": "complete"}, "sparse graph of enough clients allows it"),
        ({"adversary": "malicious", "dropout": 0.7}, "too few honest clients remain"),
        ({"graph": "star", "adversary": "gods"}, "unknown graph 'star'; known are auto, complete, sparse; unknown adv"),
        ({"corrupt": 0.6, "dropout": 0.5, "graph": GraphKind.SPARSE}, "too few honest clients remain"),
        ({"policy": "any"}, "policy must be"),
        ({"adversary": Adversary.MALICIOUS, "graph": GraphKind.SPARSE}, "decline sparse graphs"),
        ({"treshold": 3}, "unknown settings: treshold"),
        ({"clip": 0.0}, "clipping bound"),
        ({"clip": float("nan")}, "clipping bound"),
        ({"value_bits": 99}, "value bits"),
        ({"max_examples": 0}, "bound on weights"),
        ({"max_metrics": -1}, "metrics"),
        ({"metric_bound": 0}, "bound"),
        ({"dropout": 1.5}, "dropout"),
        ({"corrupt": -0.1}, "corrupt"),
        ({"adversary": "nobody"}, "adversary"),
        ({"round_timeout": 0}, "round_timeout"),
        ({"poll_seconds": float("inf")}, "poll_seconds"),
        ({"on_abort": "cry"}, "on_abort"),
        ({"threshold": 0}, "threshold"),
        ({"max_failed_rounds": -1}, "max_failed_rounds"),
        ({"max_failed_rounds": True}, "max_failed_rounds"),
        ({"capacity": 1.5}, "capacity"),
        ({"workers": 0}, "workers"),
        ({"run_config": {"lr": None}}, "run configuration"),
        ({"adversary": Adversary.MALICIOUS}, "enrolled"),
        ({"enrolled": [bytes(32)]}, "enrolled"),
        ({"adversary": Adversary.MALICIOUS, "enrolled": [b"short"]}, "enrolled keys"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SecAggGrid(LoopbackGrid(make_app(), 3), **settings)


def test_settings_that_depend_on_the_nodes_are_checked_when_the_nodes_are_known() -> None:
    """A refusal concerns the nodes that are present; settings that work for three of them are not refused before."""
    loopback = LoopbackGrid(make_app(secagg_mod()), 5)
    grid = SecAggGrid(loopback, dropout=0.6)
    with pytest.raises(FlowerError, match="over 5 nodes is impossible: 3 of 5 clients are expected to vanish and 2 to"):
        grid.send_and_receive(train_messages(grid))
    assert list(grid.send_and_receive(train_messages(grid)[:3], timeout=5))
    with pytest.raises(FlowerError) as refusal:
        grid.send_and_receive(train_messages(grid)[:1])
    assert "num_clients is 1" in str(refusal.value)
    assert "degree" not in str(refusal.value)


def test_a_threshold_that_the_nodes_cannot_meet_is_refused() -> None:
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), 3), threshold=5)
    with pytest.raises(FlowerError, match="fewer than the threshold"):
        grid.send_and_receive(train_messages(grid))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"min_inputs": 1}, "min_inputs"),
        ({"adversary": "nobody"}, "adversary must be one of"),
        ({"graph": "dense"}, "graph must be one of"),
        ({"training": 7}, "`training` must be a name"),
        ({"max_rounds": 0}, "`max_rounds` must be"),
        ({"max_rounds": True}, "`max_rounds` must be"),
        ({"adversary": "malicious"}, "`identity` and `enrolled`"),
        ({"identity": Identity.generate()}, "needs both"),
        ({"enrolled": []}, "needs both"),
    ],
)
def test_impossible_mods_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        secagg_mod(**arguments)


def test_sparse_graphs_are_taken_unless_the_client_says_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    """A node that trusts the server to follow the protocol trusts it to draw the graph."""
    for mod, included in ((secagg_mod(graph="complete"), 0), (secagg_mod(), 12), (secagg_mod(graph="sparse"), 12)):
        grid = SecAggGrid(LoopbackGrid(make_app(mod), 12), graph=GraphKind.SPARSE)
        grid.send_and_receive(train_messages(grid), timeout=5)
        assert len(grid.reports[0].included) == included
    assert "this client takes the complete graph only" in caplog.text


def test_a_node_that_trusts_the_server_says_so_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    _warn_of_trust.cache_clear()
    signed = LoopbackGrid(make_app(secagg_mod(adversary="semi-malicious", claims=tmp_path)), 3)
    grid = SecAggGrid(signed, adversary=Adversary.SEMI_MALICIOUS)
    assert len(list(grid.send_and_receive(train_messages(grid), timeout=5))) == 1
    assert "trusts the server" not in caplog.text
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), 3))
    for _ in range(2):
        assert len(list(grid.send_and_receive(train_messages(grid), timeout=5))) == 1
    assert caplog.text.count("this node trusts the server") == 1
