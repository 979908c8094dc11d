"""One client can spoil a sum so that no replies could have it: that costs the round, and not the run."""

from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from flwr.serverapp.strategy import FedAvg

import secagg.client
from fl.integrations.flower import RoundAbortedError, SecAggGrid, secagg_mod
from fl.integrations.records import RecordEncoding
from tests.integrations.flower.apps import examples_of, initial_arrays, make_app, train_messages
from tests.integrations.flower.loopback import LoopbackGrid

NODES = 5
CORRUPT = 2
TOTAL = sum(map(examples_of, range(NODES)))

# At the end are 16 metrics of four digits each, and their weights of two; before them are 8 digits of other counters.
METRICS = -16 * 6
EXAMPLES = METRICS - 8

# The corrupt client's values in place of its examples, or of the second digit of its first metric.
SPOILT = {
    "no examples": (EXAMPLES, examples_of(CORRUPT) - TOTAL),
    "fewer than clients": (EXAMPLES, examples_of(CORRUPT) - TOTAL + NODES - 1),
    "more than clients can have": (EXAMPLES, NODES * 100),
    "a metric that is too large": (METRICS + 1, 1 << 26),
}


class Corrupt:
    """A fault that replaces one node's input, for as long as it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.on = True
        encode, (place, value) = RecordEncoding.encode, SPOILT[name]

        def spoilt(encoding: RecordEncoding, reply: Any, *arguments: Any) -> Any:
            vector, layout = encode(encoding, reply, *arguments)
            if self.on and reply.metrics["metrics"]["num-examples"] == examples_of(CORRUPT):
                vector[place] = value
            return vector, layout

        monkeypatch.setattr(RecordEncoding, "encode", spoilt)
        # A corrupt client does not check itself.
        monkeypatch.setattr(secagg.client, "_checked_input", lambda vector, params: vector)


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_sum_is_a_round_without_result(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt = Corrupt(monkeypatch, name)
    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), NODES), clip=1.0, max_examples=100, poll_seconds=0.005)
    assert list(grid.send_and_receive(train_messages(grid), timeout=5)) == []
    (report,) = grid.reports
    assert "a client sent" in str(report.aborted)
    assert (report.included, report.total_weight) == ((), 0)
    assert "the model stays as it was: the sum cannot be decoded" in caplog.text
    corrupt.on = False
    (reply,) = grid.send_and_receive(train_messages(grid), timeout=5)
    assert reply.content["metrics"]["num-examples"] == TOTAL


def test_the_app_can_ask_to_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Corrupt(monkeypatch, "no examples")
    loopback = LoopbackGrid(make_app(secagg_mod()), NODES)
    grid = SecAggGrid(loopback, clip=1.0, max_examples=100, poll_seconds=0.005, on_abort="raise")
    with pytest.raises(RoundAbortedError, match="cannot be decoded"):
        grid.send_and_receive(train_messages(grid), timeout=5)


def test_a_strategy_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt = Corrupt(monkeypatch, "no examples")

    class Strategy(FedAvg):
        def configure_train(self, server_round: int, *arguments: Any) -> Any:
            corrupt.on = server_round == 1
            return super().configure_train(server_round, *arguments)

    grid = SecAggGrid(LoopbackGrid(make_app(secagg_mod()), NODES), clip=1.0, max_examples=100, poll_seconds=0.005)
    result = Strategy().start(grid=grid, initial_arrays=initial_arrays(), num_rounds=2, timeout=5)
    assert list(result.train_metrics_clientapp) == [2]
