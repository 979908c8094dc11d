"""The example's own apps, over the loopback: real training on real digits, beside the same without the two lines."""

import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

import torch
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from fl.integrations.flower import SecAggGrid
from tests.integrations.flower.loopback import LoopbackGrid
from tests.integrations.flower.processes import EXAMPLE

NODES = 4


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Return the example's own settings; its package can be imported, and is forgotten afterwards."""
    monkeypatch.syspath_prepend(EXAMPLE)
    settings = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    yield settings | {"num-server-rounds": 1}
    for name in [name for name in sys.modules if name.split(".")[0] == "flower_quickstart"]:
        del sys.modules[name]


def trained(config: dict[str, Any], out: Path, monkeypatch: pytest.MonkeyPatch, *, secure: bool) -> Any:
    """Return the final model, and the grid."""
    from flower_quickstart import client_app, server_app

    client = client_app.app
    config = config | {"out": str(out)}
    # The loopback has no run to take it from.
    monkeypatch.setattr(server_app, "SecAggGrid", partial(SecAggGrid, run_config=config))
    if not secure:
        monkeypatch.setattr(server_app, "SecAggGrid", lambda grid, **settings: grid)
        client = ClientApp()
        client.train()(client_app.train)
        client.evaluate()(client_app.evaluate)
    grid = LoopbackGrid(client, NODES, run_config=config)
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    server_app.app(grid, context)
    return torch.load(out, weights_only=True), grid


def test_the_example_trains_as_in_the_clear(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure, grid = trained(config, tmp_path / "secure.pt", monkeypatch, secure=True)
    plain, _ = trained(config, tmp_path / "plain.pt", monkeypatch, secure=False)
    assert secure.keys() == plain.keys()
    for name, tensor in plain.items():
        # Rounding noise is 1e-6 here. More rounds would train on the difference, and amplify it.
        torch.testing.assert_close(secure[name], tensor, atol=1e-5, rtol=0)
    train_replies = [reply for reply in grid.seen if reply.metadata.message_type == "train"]
    assert len(train_replies) == 2 * 4 * NODES
    assert not any(reply.content.metric_records for reply in train_replies)
