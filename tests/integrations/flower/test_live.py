"""Flower's own programs, as its users run them: `flwr run` with the simulation engine, and with SuperNodes.

Each run starts a dozen processes and takes a minute or two on small machines, so they run when they are asked for:
``make test-flower LIVE=1``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")
if not os.environ.get("SECAGG_LIVE"):
    pytest.skip("minutes of Flower's processes on loopback: make test-flower LIVE=1", allow_module_level=True)

import torch

from tests.integrations.flower import batchnorm, official_quickstart
from tests.integrations.flower.processes import REPOSITORY, Federation, copy_of_example

SECURE = {
    "client_app.py": ("ClientApp(mods=[secagg_mod()])", "ClientApp()"),
    "server_app.py": ("grid=SecAggGrid(grid)", "grid=grid"),
}


def example(folder: Path, *, secure: bool) -> Path:
    """Return the example, or the same without its two lines."""
    folder.mkdir()
    app = copy_of_example(folder)
    for name, (ours, plain) in SECURE.items():
        path = app / "flower_quickstart" / name
        text = path.read_text(encoding="utf-8")
        assert text.count(ours) == 1
        if not secure:
            path.write_text(text.replace(ours, plain), encoding="utf-8")
    return app


def model_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True))


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=tolerance, rtol=0)


def test_simulation_gives_the_model_of_plain_averaging(tmp_path: Path) -> None:
    with Federation(tmp_path) as federation:
        models = {}
        for secure in (False, True):
            app = example(tmp_path / f"secure-{secure}", secure=secure)
            model = tmp_path / f"{secure}.pt"
            printed = federation.run(app, config=f'num-server-rounds=2 out="{model}"', simulated=3)
            assert printed.count("secagg: the average of 3 of 3 nodes, 1442 examples") == (2 if secure else 0)
            models[secure] = model_of(model)
        # Rounding is 1e-5 at most; the second round trains on it, and amplifies it.
        assert_same(models[False], models[True], 2e-2)


def test_supernodes_train_through_the_protocol(tmp_path: Path) -> None:
    """A process that a SuperNode starts handles each message."""
    with Federation(tmp_path, nodes=3) as federation:
        models = {}
        for secure in (False, True):
            app = example(tmp_path / f"secure-{secure}", secure=secure)
            model = tmp_path / f"{secure}.pt"
            printed = federation.run(app, config=f'num-server-rounds=1 out="{model}"', timeout=600)
            assert ("secagg: the average of 3 of 3 nodes, 1442 examples" in printed) == secure, federation.logs()
            models[secure] = model_of(model)
        assert_same(models[False], models[True], 1e-5)


def test_batchnorm_on_the_simulation_engine(tmp_path: Path) -> None:
    """With FedAvg, FedAvgM and FedAdam."""
    with Federation(tmp_path) as federation:
        subprocess.run(  # noqa: S603 - a module of the tests
            [sys.executable, "-m", "tests.integrations.flower.batchnorm", str(tmp_path)],
            env=federation.environment, cwd=REPOSITORY, timeout=600, check=True,
        )  # fmt: skip
    for name in batchnorm.STRATEGIES:
        saved = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert saved["included"] == [3] * batchnorm.ROUNDS
        batchnorm.assert_kept(saved["model"])


CLIENT = """
import os, signal
from fl.integrations.flower import secagg_mod
from tests.integrations.flower import batchnorm


def deadly(message, context, call_next):
    if message.content["config"]["server-round"] == 2 and context.node_config["partition-id"] == 3:
        os.killpg(os.getpgid(0), signal.SIGKILL)
    return call_next(message, context)


app = batchnorm.make(secagg_mod(), deadly)
"""
SERVER = """
from pathlib import Path
from tests.integrations.flower import batchnorm

app = batchnorm.serve(Path({folder!r}), ["FedAdam"], nodes=4, timeout=25.0)
"""


def test_batchnorm_on_supernodes_one_of_which_is_killed_while_it_trains(tmp_path: Path) -> None:
    with Federation(tmp_path, nodes=4) as federation:
        app = copy_of_example(tmp_path)
        (app / "flower_quickstart" / "client_app.py").write_text(CLIENT, encoding="utf-8")
        (app / "flower_quickstart" / "server_app.py").write_text(SERVER.format(folder=str(tmp_path)), encoding="utf-8")
        federation.run(app, timeout=600)
        assert federation.num_running() == 1 + 3, federation.logs()
    saved = torch.load(tmp_path / "FedAdam.pt", weights_only=True)
    assert saved["included"] == [4, 3, 3]
    batchnorm.assert_kept(saved["model"])


def test_flowers_own_quickstart_with_two_lines(tmp_path: Path) -> None:
    wheel = official_quickstart.download(tmp_path)
    if wheel is None:
        pytest.skip(f"flwr {official_quickstart.RELEASE}, whose wheel holds the quickstart, cannot be downloaded")
    app = official_quickstart.write_app(wheel, tmp_path / "quickstart-app", secure=True)
    with Federation(tmp_path) as federation:
        printed = federation.run(app, config="num-server-rounds=2 fraction-train=1.0", simulated=3)
    assert printed.count("secagg: the average of 3 of 3 nodes") == 2
    assert "Strategy execution finished" in printed
