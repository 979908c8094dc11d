"""A PyTorch model with a counter, a mask and a 0-dim parameter, in the form of Flower's quickstart.

Run on Flower's simulation engine, one training for each strategy: python -m tests.integrations.flower.batchnorm FOLDER
"""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM
from torch import nn

from fl.integrations.flower import SecAggGrid, secagg_mod

COUNTER = 2**53 + 1
"""One more than the largest integer that a float64 can hold."""

STRATEGIES = {
    "FedAvg": lambda: FedAvg(fraction_evaluate=0.0),
    "FedAvgM": lambda: FedAvgM(fraction_evaluate=0.0, server_learning_rate=0.7, server_momentum=0.6),
    "FedAdam": lambda: FedAdam(fraction_evaluate=0.0, eta=0.05, tau=0.1),
}
ROUNDS = 3


class Net(nn.Module):
    """Linear, BatchNorm, linear."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("seen", torch.tensor(COUNTER))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x) * self.scale
        return logits


def initial() -> ArrayRecord:
    """Return the model that all trainings start from."""
    torch.manual_seed(0)
    return ArrayRecord(Net().state_dict())


def train(message: Message, context: Context) -> Message:
    """Train a few steps; integers and bools must arrive with the model's values."""
    received = message.content["arrays"].to_torch_state_dict()
    model = Net()
    for name, tensor in model.state_dict().items():
        # FedAdam's own arithmetic makes doubles of 0-dim floats.
        assert tensor.is_floating_point() or received[name].dtype is tensor.dtype, (
            f"{name} arrives as {received[name].dtype}"
        )
    model.load_state_dict(received)
    number = int(context.node_config["partition-id"])
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(32, 5, generator=generator)
    y = (x.sum(1) > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for at in range(0, 32, 16):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[at : at + 16]), y[at : at + 16])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    metrics = MetricRecord({"loss": loss.item(), "num-examples": 32 + number})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


def assert_kept(model: dict[str, torch.Tensor]) -> None:
    """Assert that a model has trained, and that its counters and its mask are the initial ones."""
    assert (model["seen"].dtype, model["seen"].item()) == (torch.int64, COUNTER)
    assert (model["mask"].dtype, model["mask"].tolist()) == (torch.bool, [True, False])
    counter = model["layers.1.num_batches_tracked"]
    assert (counter.dtype, counter.item()) == (torch.int64, 0)
    assert model["scale"].item() != 1.0
    Net().load_state_dict(model)


def make(*mods: Any) -> ClientApp:
    """Return the ClientApp with these mods."""
    app = ClientApp(mods=list(mods))
    app.train()(train)
    return app


def serve(
    folder: Path, names: Iterable[str] = tuple(STRATEGIES), *, nodes: int = 3, timeout: float = 60.0
) -> ServerApp:
    """Return a ServerApp that leaves each strategy's model in ``folder``, with the number of nodes in each average."""
    app = ServerApp()

    @app.main()
    def main(grid: Any, context: Context) -> None:
        while len(list(grid.get_node_ids())) < nodes:
            time.sleep(0.2)
        for name in names:
            secure = SecAggGrid(grid, round_timeout=timeout)
            result = STRATEGIES[name]().start(grid=secure, initial_arrays=initial(), num_rounds=ROUNDS, timeout=timeout)
            included = [len(report.included) for report in secure.reports]
            torch.save({"included": included, "model": result.arrays.to_torch_state_dict()}, folder / f"{name}.pt")

    return app


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    (given,) = sys.argv[1:]
    run_simulation(
        server_app=serve(Path(given)),
        client_app=make(secagg_mod()),
        num_supernodes=3,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
