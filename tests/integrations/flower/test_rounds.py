"""Every averaging strategy through secure aggregation gives its result in the clear, up to rounding."""

from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import numpy as np
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
)

from fl.aggregation.planning import GRAPHS
from fl.integrations.flower import SecAggGrid, secagg_mod
from secagg import Adversary, GraphKind
from tests.integrations.flower import apps
from tests.integrations.flower.apps import examples_of, initial_arrays, make_app, train_messages
from tests.integrations.flower.loopback import LoopbackGrid

NODES = 5
ROUNDS = 3

STRATEGIES = {
    "FedAvg": FedAvg,
    "FedAvgM": lambda: FedAvgM(server_learning_rate=0.7, server_momentum=0.6),
    "FedAdam": lambda: FedAdam(eta=0.02, tau=0.1),
    "FedAdagrad": lambda: FedAdagrad(eta=0.02, tau=0.1),
    "FedYogi": lambda: FedYogi(eta=0.02, tau=0.1),
    "FedProx": lambda: FedProx(proximal_mu=0.1),
}


def trained(grid: Any, strategy: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Return the arrays after some rounds, and Flower's result."""
    result = strategy.start(grid=grid, initial_arrays=initial_arrays(), num_rounds=ROUNDS, timeout=30)
    return {name: array.numpy() for name, array in result.arrays.items()}, result


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_trains_as_in_the_clear(name: str) -> None:
    plain, plain_result = trained(LoopbackGrid(make_app(), NODES), STRATEGIES[name]())
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), NODES), max_examples=100)
    secure, secure_result = trained(grid, STRATEGIES[name]())

    assert secure.keys() == plain.keys()
    for key, array in plain.items():
        assert secure[key].shape == array.shape
        # Adaptive optimizers divide by small numbers: rounding comes out larger.
        np.testing.assert_allclose(secure[key], array, atol=1e-5 if name.startswith("FedAvg") else 1e-4)
    assert any(np.abs(array - initial_arrays()[key].numpy()).max() > 0.01 for key, array in plain.items())
    for round_, metrics in plain_result.train_metrics_clientapp.items():
        assert secure_result.train_metrics_clientapp[round_].keys() == metrics.keys()
        for key, value in metrics.items():
            assert secure_result.train_metrics_clientapp[round_][key] == pytest.approx(value, abs=1e-5)
    for round_, metrics in plain_result.evaluate_metrics_clientapp.items():
        # Flower adds up in the order in which nodes answer.
        assert secure_result.evaluate_metrics_clientapp[round_]["eval_acc"] == pytest.approx(metrics["eval_acc"])
    assert [len(report.included) for report in grid.reports] == [NODES] * ROUNDS


def test_the_defaults_need_no_settings() -> None:
    plain, _ = trained(LoopbackGrid(make_app(), NODES), FedAvg())
    secure, _ = trained(SecAggGrid(LoopbackGrid(make_app(secagg_mod()), NODES)), FedAvg())
    for key, array in plain.items():
        np.testing.assert_allclose(secure[key], array, atol=2e-5)


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS])
@pytest.mark.parametrize("graph", [*GraphKind, *GRAPHS])
def test_modes_and_graphs(adversary: Adversary, graph: Any, tmp_path: Any) -> None:
    app = make_app(secagg_mod(adversary=adversary, graph=graph, claims=tmp_path / "claims"))
    grid = SecAggGrid(LoopbackGrid(app, 12), adversary=adversary.value, graph=graph, max_examples=200)
    (reply,) = grid.send_and_receive(train_messages(grid), timeout=30)
    assert reply.content["metrics"]["num-examples"] == sum(map(examples_of, range(12)))
    assert grid.reports[0].aborted is None


def test_no_single_reply_travels_in_the_clear() -> None:
    loopback = LoopbackGrid(make_app(secagg_mod()), NODES)
    grid = SecAggGrid(loopback)
    (reply,) = grid.send_and_receive(train_messages(grid), timeout=30)
    assert list(reply.content) == ["arrays", "metrics"]
    assert reply.metadata.src_node_id in loopback.contexts
    # The nodes' messages: messages of the protocol, and the names of their parts.
    assert len(loopback.seen) == 2 * 4 * NODES
    for seen in loopback.seen:
        assert set(seen.content) <= {"secagg", "secagg.layout"}
        assert not seen.content.metric_records
        assert [array.stype for array in seen.content["secagg"].values()] == ["secagg.message"]


def test_the_model_travels_once_a_session() -> None:
    """In each session; the first round has one more, which measures."""
    loopback = LoopbackGrid(make_app(secagg_mod()), NODES)
    grid = SecAggGrid(loopback)
    for sessions in (2, 1):
        del loopback.sent[:]
        grid.send_and_receive(train_messages(loopback), timeout=30)
        assert len([message for message in loopback.sent if "arrays" in message.content]) == sessions * NODES


def test_fixed_clipping_with_central_noise() -> None:
    """The strategy's clipping norm reaches the clients' mod; without noise, the result is the plain one."""
    from flwr.clientapp.mod import fixedclipping_mod

    def strategy() -> Any:
        return DifferentialPrivacyClientSideFixedClipping(
            FedAvg(), noise_multiplier=0.0, clipping_norm=0.2, num_sampled_clients=NODES
        )

    plain, _ = trained(LoopbackGrid(make_app(fixedclipping_mod), NODES), strategy())
    secure, _ = trained(
        SecAggGrid(LoopbackGrid(make_app(secagg_mod(), fixedclipping_mod), NODES), max_examples=100), strategy()
    )
    moved = 0.0
    for key, array in plain.items():
        np.testing.assert_allclose(secure[key], array, atol=1e-5)
        moved += float(np.square(array - initial_arrays()[key].numpy()).sum())
    assert 0 < moved**0.5 <= 0.2 * ROUNDS + 1e-6


def test_evaluation_through_the_protocol() -> None:
    plain = LoopbackGrid(make_app(), NODES)
    _, plain_result = trained(plain, FedAvg())
    loopback = LoopbackGrid(make_app(secagg_mod(protect_evaluate=True)), NODES)
    _, result = trained(SecAggGrid(loopback, protect_evaluate=True), FedAvg())
    for round_, metrics in plain_result.evaluate_metrics_clientapp.items():
        for key, value in metrics.items():
            assert result.evaluate_metrics_clientapp[round_][key] == pytest.approx(value, abs=1e-5)
    assert not any(message.content.metric_records for message in loopback.seen)


def test_messages_of_other_categories_pass_unchanged() -> None:
    loopback = LoopbackGrid(make_app(secagg_mod()), 3)
    app = loopback._app

    @app.query()
    def query(message: Any, context: Any) -> Any:
        return type(message)(message.content, reply_to=message)

    grid = SecAggGrid(loopback)
    content = train_messages(grid)[0].content
    replies = grid.send_and_receive(train_messages(grid, content, "query"), timeout=30)
    assert [list(reply.content) for reply in replies] == [["arrays", "config"]] * 3


def test_named_actions_are_trained_too() -> None:
    app = make_app(secagg_mod())
    app.train("personalize")(apps.train)
    grid = SecAggGrid(LoopbackGrid(app, 3))
    (reply,) = grid.send_and_receive(train_messages(grid, message_type="train.personalize"), timeout=30)
    assert reply.content["metrics"]["num-examples"] == sum(map(examples_of, range(3)))


def test_config_reaches_the_clients() -> None:
    seen = []

    def train(message: Any, context: Any) -> Any:
        seen.append({name: dict(record) for name, record in message.content.config_records.items()})
        return apps.train(message, context)

    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod(), train=train), 3))
    FedAvg().start(grid=grid, initial_arrays=initial_arrays(), num_rounds=1,
                   train_config=ConfigRecord({"lr": 0.5, "names": ["a", "b"]}))  # fmt: skip
    assert seen == [{"config": {"lr": 0.5, "names": ["a", "b"], "server-round": 1}}] * 3
