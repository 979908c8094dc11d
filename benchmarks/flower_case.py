"""Do one run in Flower's simulation engine, in a separate process, and print one JSON line.

A round's time runs from the end of one evaluation by the server to the beginning of the next.  For all modes it
includes training, messages, the engine and the aggregation.  The figures leave out the first round, which starts the
engine's workers.
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import logging
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.common.serde import recorddict_to_proto
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks import flower_workload as workload
from fl.integrations.flower import SecAggGrid, secagg_mod

MODES = ("plain", "secagg", "secagg+")

_THRESHOLD = 0.6
"""The threshold as a fraction of the clients, for both protocols; secagg's own rule needs more than half."""


class CountingGrid(Grid):
    """Flower's grid with counters: ``down`` and ``up`` are the bytes of all messages' records."""

    def __init__(self, grid: Any) -> None:
        self._grid = grid
        self.down = 0
        self.up = 0

    @property
    def run(self) -> Any:
        """Return the grid's run."""
        return self._grid.run

    def set_run(self, run: Any) -> None:
        """Set the grid's run."""
        self._grid.set_run(run)

    def create_message(self, *arguments: Any, **options: Any) -> Any:
        """Create a message as the grid does."""
        return self._grid.create_message(*arguments, **options)

    def get_node_ids(self) -> Any:
        """Return the grid's node ids."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Any]) -> Any:
        """Push messages, and count their bytes."""
        return self._grid.push_messages(self._sent(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        """Pull messages, and count their bytes."""
        return self._received(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """Send messages and receive replies, and count their bytes."""
        return self._received(self._grid.send_and_receive(self._sent(messages), timeout=timeout))

    def _sent(self, messages: Iterable[Message]) -> list[Message]:
        listed = list(messages)
        self.down += sum(_size(message.content) for message in listed)
        return listed

    def _received(self, messages: Iterable[Message]) -> list[Message]:
        listed = list(messages)
        self.up += sum(_size(message.content) for message in listed if message.has_content())
        return listed


def _size(content: RecordDict) -> int:
    """Return the bytes of array data plus the serialized rest; Flower's own count_bytes fails on empty lists."""
    others = RecordDict({name: record for name, record in content.items() if name not in content.array_records})
    data = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    return data + int(recorddict_to_proto(others).ByteSize())


class Rounds:
    """The server's record of each round: the time, the bytes so far, and the model's accuracy."""

    def __init__(self) -> None:
        self.grid: CountingGrid | None = None
        self.seconds: list[float] = []
        self.down: list[int] = []
        self.up: list[int] = []
        self.accuracy: list[float] = []
        self.weights: workload.Weights = []
        self._since = 0.0

    def note(self, weights: workload.Weights) -> None:
        """Record the end of a round, or of the start."""
        assert self.grid is not None
        now = time.perf_counter()
        if self._since:
            self.seconds.append(now - self._since)
            self.down.append(self.grid.down)
            self.up.append(self.grid.up)
        self.grid.down = self.grid.up = 0
        self.accuracy.append(workload.accuracy(weights))
        self.weights = weights
        self._since = time.perf_counter()


def message_api(clients: int, rounds: int, *, secure: bool) -> tuple[ServerApp, ClientApp, Rounds]:
    """Return apps of Flower's Message API: FedAvg over Flower's grid, or over secagg's."""
    seen, server, client = Rounds(), ServerApp(), ClientApp(mods=[secagg_mod()] if secure else [])

    @server.main()
    def main(grid: Any, context: Context) -> None:
        seen.grid = CountingGrid(grid)
        wrapped = SecAggGrid(seen.grid, threshold=_least(clients)) if secure else seen.grid
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)

        def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
            seen.note(arrays.to_numpy_ndarrays())
            return MetricRecord({"accuracy": seen.accuracy[-1]})

        initial = ArrayRecord(workload.weights_of(workload.new_model()))
        strategy.start(wrapped, initial, num_rounds=rounds, evaluate_fn=evaluate)

    @client.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        weights, loss = workload.trained(arrays.to_numpy_ndarrays(), int(context.node_config["partition-id"]))
        metrics = MetricRecord({"train_loss": loss, "num-examples": workload.EXAMPLES})
        return Message(RecordDict({"arrays": ArrayRecord(weights), "metrics": metrics}), reply_to=message)

    return server, client, seen


class WorkloadClient(NumPyClient):
    """The same client for Flower's legacy API."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fit(self, parameters: Any, config: Any) -> tuple[workload.Weights, int, dict[str, Any]]:
        """Return the client's weights, examples and loss."""
        weights, loss = workload.trained(parameters, self._number)
        return weights, workload.EXAMPLES, {"train_loss": loss}


def legacy_api(clients: int, rounds: int) -> tuple[ServerApp, ClientApp, Rounds]:
    """Return apps of Flower's SecAgg+, which works with its legacy API only."""
    seen, server = Rounds(), ServerApp()
    client = ClientApp(
        client_fn=lambda context: WorkloadClient(int(context.node_config["partition-id"])).to_client(),
        mods=[secaggplus_mod],
    )

    @server.main()
    def main(grid: Any, context: Context) -> None:
        seen.grid = CountingGrid(grid)

        def evaluate(number: int, weights: Any, config: Any) -> tuple[float, dict[str, Any]]:
            seen.note(weights)
            return 0.0, {"accuracy": seen.accuracy[-1]}

        strategy = LegacyFedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=clients,
            min_available_clients=clients,
            initial_parameters=ndarrays_to_parameters(workload.weights_of(workload.new_model())),
            evaluate_fn=evaluate,
        )
        legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds), strategy=strategy)
        # All clients share with all, as here: a fraction of 1.0.
        workflow = SecAggPlusWorkflow(1.0, _THRESHOLD, max_weight=float(workload.EXAMPLES))
        DefaultWorkflow(fit_workflow=workflow)(seen.grid, legacy)

    return server, client, seen


def _least(clients: int) -> int:
    """Return the same threshold, unless secagg's planner asks for a higher one."""
    return max(clients // 2 + 1, round(_THRESHOLD * clients))


def run(mode: str, clients: int, rounds: int, workers: int) -> dict[str, Any]:
    """Run one mode and return its figures."""
    workload.dataset()
    if mode == "secagg+":
        server, client, seen = legacy_api(clients, rounds + 1)
    else:
        server, client, seen = message_api(clients, rounds + 1, secure=mode == "secagg")
    run_simulation(
        server,
        client,
        num_supernodes=clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": workers, "_node_ip_address": "127.0.0.1"},
        },
    )
    return {
        "mode": mode,
        "clients": clients,
        "rounds": rounds,
        "seconds": seen.seconds[1:],
        "bytes_down_per_client": round(float(np.mean(seen.down[1:])) / clients),
        "bytes_up_per_client": round(float(np.mean(seen.up[1:])) / clients),
        "accuracy": seen.accuracy,
        "parameters": sum(array.size for array in seen.weights),
        "flwr": version("flwr"),
        "ray": version("ray"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    chosen = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(json.dumps(run(chosen.mode, chosen.clients, chosen.rounds, chosen.workers)))
