"""Run one round of Flower's own SecAgg+ (`SecAggPlusWorkflow` with `secaggplus_mod`) in process, by its own Python.

Server and clients are Flower's, joined by a grid that calls the client app directly, without Ray, sockets or
serialization, so that only the protocol's own cost counts.  It prints one JSON line.
"""

import argparse
import copy
import json
import logging
import os
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import arrayrecord_to_parameters
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_PARAMS_RECORD
from flwr.serverapp.grid import Grid
from flwr.supercore.task_identity import TaskIdentity

STAGES = ("setup_stage", "share_keys_stage", "collect_masked_vectors_stage", "unmask_stage")


class VanishedError(Exception):
    """A client that has dropped out; the grid reports a failed node."""


class VectorClient(NumPyClient):
    """A client that answers with its vector, or drops out: it shares its keys, and fails at its masked input."""

    def __init__(self, vector: np.ndarray, vanishes: bool) -> None:
        self._vector = vector
        self._vanishes = vanishes

    def fit(self, parameters: Any, config: Any) -> tuple[list[np.ndarray], int, dict[str, Any]]:
        """Return the update, and one example, so that all clients weigh the same."""
        if self._vanishes:
            raise VanishedError
        return [self._vector], 1, {}


class Run:
    """The data of a run that Flower's grid needs."""

    run_id = 1


class LoopbackGrid(Grid):
    """A grid that gives each message to the client app, one client after the other."""

    run = Run()

    def __init__(self, app: ClientApp, num_clients: int) -> None:
        self._app = app
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": num_clients},
                state=RecordDict(),
                run_config={},
            )
            for node in range(1, num_clients + 1)
        }

    def set_run(self, run: Any) -> None:
        """Ignore the id, since there is only one run."""

    def create_message(self, *args: Any, **options: Any) -> Message:
        """Raise NotImplementedError: the workflow does not use it."""
        raise NotImplementedError

    push_messages = pull_messages = create_message

    def get_node_ids(self) -> list[int]:
        """Return all clients."""
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return the clients' answers at once."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        # The client's module empties its arguments, so each client needs its own copy.
        own = Message(
            copy.deepcopy(message.content),
            dst_node_id=node,
            message_type=message.metadata.message_type,
            group_id=message.metadata.group_id,
        )
        try:
            return self._app(own, self._contexts[node])
        except VanishedError:
            return Message(Error(code=0, reason="vanished"), reply_to=own)


class TimedWorkflow(SecAggPlusWorkflow):
    """Flower's workflow, with the seconds of each stage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds: dict[str, float] = {}
        for name in STAGES:
            setattr(self, name, self._timed(name))

    def _timed(self, name: str) -> Any:
        stage = getattr(self, name)

        def run(*arguments: Any) -> bool:
            started = time.perf_counter()
            went_on = stage(*arguments)
            self.seconds[name] = time.perf_counter() - started
            return went_on

        return run


def run_round(num_clients: int, num_vanish: int, length: int, threshold: float) -> dict[str, Any]:
    """Run a round in which all clients share with all; the first ``num_vanish`` drop out after sharing keys."""
    vectors = [np.random.default_rng(i).uniform(-1, 1, length).astype(np.float32) for i in range(num_clients)]
    client_app = ClientApp(
        client_fn=lambda context: VectorClient(
            vectors[int(context.node_config["partition-id"])],
            int(context.node_config["partition-id"]) < num_vanish,
        ).to_client(),
        mods=[secaggplus_mod],
    )
    workflow = TimedWorkflow(num_shares=1.0, reconstruction_threshold=threshold, max_weight=1.0)
    result: dict[str, Any] = {}
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=num_clients,
            min_available_clients=num_clients,
            initial_parameters=ndarrays_to_parameters([np.zeros(length, np.float32)]),
        )
        legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=1), strategy=strategy)
        started = time.perf_counter()
        DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
        result["seconds"] = time.perf_counter() - started
        record = legacy.state.array_records[MAIN_PARAMS_RECORD]
        (mean,) = parameters_to_ndarrays(arrayrecord_to_parameters(record, keep_input=True))
        result["max_abs_error"] = float(np.abs(mean - np.mean(vectors[num_vanish:], axis=0)).max())

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 0
    server_context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    server_app(LoopbackGrid(client_app, num_clients), server_context)
    return result | {"stages": workflow.seconds, "version": version("flwr")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--vanish", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--threshold", type=float, required=True, help="fraction of the clients")
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    print(json.dumps(run_round(arguments.clients, arguments.vanish, arguments.length, arguments.threshold)))
