"""Every setting of a training that a server can carry out: from its command line to the clients' updates."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any, NoReturn, get_args

import pytest

import fl.network.server
from fl.commands.app import app
from fl.config.config_file import read_config_file
from fl.config.run_config import SETTINGS, RunConfig
from fl.data import Dataset
from fl.network.errors import RoundFailedError
from fl.network.server import resume_serving
from fl.network.session_thread import SessionThread
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import FederatedRun
from tests.fl.network.harness import CLIENTS, Client, Deployment
from tests.fl.runs import REPOSITORY, assert_refused, distance, invoke
from transport.certificates.authority import Authority
from transport.tcp import Limits

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

TRAINING: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 0.02,
    "weight_decay": 0.01,
    "proximal": 0.3,
    "learning_rate_decay": 0.5,
    "server_optimizer": "fedavgm",
    "server_learning_rate": 0.7,
    "server_momentum": 0.6,
}

# Real clients vanish; examples are not dealt out, and clients train where they are.
SIMULATION_ONLY = {
    *("dropout_at", "dropout_model", "aggregator", "compare"),
    *("alpha", "shards_per_client", "engine", "threads", "channels_last", "bfloat16"),
    "personalize",
    "personal_epochs",
    "personal_learning_rate",
    "personal_strength",
}


class _NotedError(Exception):
    """Stops the server before it serves."""


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    return Deployment(tmp_path, monkeypatch)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Return the configs with which `secagg serve` would have started."""
    configs: list[RunConfig] = []

    def note(config: RunConfig, *_: object, **__: Any) -> NoReturn:
        configs.append(config)
        raise _NotedError

    monkeypatch.setattr("fl.network.server.start_serving", note)
    return configs


def start_all(deployment: Deployment, config: RunConfig) -> list[Client]:
    clients = [deployment.client(client_id, config) for client_id in range(CLIENTS)]
    for client in clients:
        client.start()
    return clients


def simulated(deployment: Deployment, config: RunConfig) -> FederatedRun:
    run = FederatedRun(config, deployment.dataset, "secure")
    for _ in range(config.rounds):
        run.run_round()
    return run


def served(deployment: Deployment, config: RunConfig) -> FederatedRun:
    """Return the run as stored in its folder."""
    run = FederatedRun(config, deployment.dataset, "secure")
    RunFolder(deployment.directory / "run").restore([run], config.rounds)
    return run


def test_optimizers_on_both_sides_equal_the_simulations(deployment: Deployment) -> None:
    """With one batch an epoch the order of examples does not matter, and clients' own randomness only rounds."""
    config = deployment.config(rounds=3, batch_size=CLIENTS * 60, epochs=3, **TRAINING)
    clients: list[Client] = []
    finished = deployment.run_beside(config, lambda: clients.extend(start_all(deployment, config)))
    for client in clients:
        client.finish()
    assert finished.summary["included"] == [CLIENTS] * 3
    expected, found = simulated(deployment, config), served(deployment, config)
    assert found.server_optimizer.state().keys() == expected.server_optimizer.state().keys()
    assert distance(found.model, expected.model) < 1e-5
    for name in TRAINING.keys() - {"learning_rate", "server_optimizer"}:
        other = simulated(deployment, RunConfig.of(**{**config.options(), name: deployment.config().options()[name]}))
        assert distance(other.model, expected.model) > 1e-4, name


def options_of(values: dict[str, Any]) -> list[object]:
    return [part for name, value in values.items() for part in ("--" + name.replace("_", "-"), value)]


def test_every_option_arrives(noted: list[RunConfig], tmp_path: Path) -> None:
    others = {"server_beta2": 0.95, "server_tau": 0.01, "momentum": 0.25, "epochs": 2, "batch_size": 7, "clip": 2.0}
    given = {**TRAINING, **others, "clients": 5, "rounds": 4, "seed": 8, "partition": "shards", "model": "logistic"}
    result = invoke("serve", "--plaintext", "--out", tmp_path / "run", *options_of(given))
    assert isinstance(result.exception, _NotedError), result.stderr
    assert noted == [RunConfig.of(**given)]


def test_the_room_for_updates_that_come_in_is_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> NoReturn:
        made.append(arguments)
        raise _NotedError

    monkeypatch.setattr(fl.network.server, "SessionThread", note)
    given = ("--clients", 4, "--dataset", "digits", "--listen", "127.0.0.1:0", "--memory", 7)
    result = invoke("serve", "--plaintext", "--out", tmp_path / "run", *given)
    assert isinstance(result.exception, _NotedError), result.stderr
    with SessionThread(*made[0]) as sessions:
        assert sessions.server._limits == Limits(memory=7 << 20)


def test_the_server_has_all_settings_of_a_training_that_it_can_carry_out() -> None:
    commands = {command.callback.__name__: command.callback for command in app.registered_commands if command.callback}
    settings = SETTINGS.keys()
    train, serve = (inspect.signature(commands[name]).parameters for name in ("train", "serve"))
    assert (train.keys() & settings) - serve.keys() == SIMULATION_ONLY
    # One name, one meaning: help, type and default are equal, apart from those that describe more in a server.
    own = {
        "clients",
        "dataset",
        "data_dir",
        "model",
        "partition",
        "value_bits",
        "sample",
        "dropout",
        "adversary",
        "holdout",
    }
    for name in (train.keys() & serve.keys() & settings) - own:
        (kind, option), (other_kind, other) = (get_args(one[name].annotation) for one in (train, serve))
        assert kind == other_kind, name
        assert vars(option) | {"envvar": None} == vars(other) | {"envvar": None}, name
        assert train[name].default == serve[name].default, name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--optimizer", "lion"), "optimizer must be one of sgd, adam"),
        (("--server-optimizer", "lion"), "unknown server optimizer 'lion'"),
        (("--learning-rate-decay", 0), "learning_rate_decay must be above 0"),
        (("--proximal", -1), "proximal must be finite and at least 0"),
        (("--weight-decay", "nan"), "weight_decay must be finite and at least 0"),
        (("--server-beta2", 1), "server_beta2 must be in [0, 1)"),
        (("--server-tau", 0), "server_tau must be above 0"),
        (("--memory", 0), "memory must be above 0, not 0"),
    ],
)
def test_numbers_out_of_range_are_one_line(options: tuple[object, ...], said: str, tmp_path: Path) -> None:
    result = invoke("serve", "--plaintext", "--clients", 4, "--out", tmp_path / "run", *options)
    assert_refused(result, said)


def test_a_resumed_run_keeps_its_settings(tmp_path: Path) -> None:
    result = invoke("serve", "--plaintext", "--resume", tmp_path, "--optimizer", "adam", "--server-tau", 1)
    assert_refused(result, "leave out --optimizer, --server-tau")


def test_the_documented_command_serves_the_hospitals_settings(
    noted: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Authority.create(tmp_path / "certs").issue(server_names=["localhost"], client_ids=())
    monkeypatch.chdir(tmp_path)
    document = (REPOSITORY / "docs" / "how-to" / "own-models.md").read_text()
    (command,) = re.findall(r"^\$ secagg (serve --model hospitals:(?:.*\\\n)*.*)$", document, re.MULTILINE)
    result = invoke(*shlex.split(command.replace("\\\n", "")))
    assert isinstance(result.exception, _NotedError), result.stderr
    settings = read_config_file(REPOSITORY / "examples" / "hospitals" / "hospitals.toml")
    assert noted == [RunConfig.of(**{name: value for name, value in settings.items() if name not in SIMULATION_ONLY})]


def test_the_server_reports_nothing_about_the_clients_examples(deployment: Deployment) -> None:
    """The server's examples are not a client's, however they look."""
    deployment.dataset.train_labels[:] = 1
    config = deployment.config(rounds=1)
    clients: list[Client] = []
    deployment.run_beside(config, lambda: clients.extend(start_all(deployment, config)))
    for client in clients:
        client.finish()
    (introduction,) = (line for line in deployment.output if "parameters; " in line)
    assert "4 clients, 4 a round" in introduction
    assert not any("one class" in line for line in deployment.output)


def without_training_set(dataset: Dataset) -> Dataset:
    """Return a dataset for a server that only measures: the two mandatory training examples are test examples."""
    return Dataset(
        "measured",
        dataset.test_images[:2],
        dataset.test_labels[:2],
        dataset.test_images,
        dataset.test_labels,
        dataset.num_classes,
    )


@pytest.mark.parametrize("max_examples", [None, 60])
def test_a_server_needs_no_training_examples(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, max_examples: int | None
) -> None:
    """This holds for a resumed run, too."""
    config = deployment.config(rounds=1, batch_size=CLIENTS * 60)
    own = without_training_set(deployment.dataset)
    monkeypatch.setattr(fl.network.server, "make_dataset", lambda name, data_dir=None: own)
    nobody = deployment.options(give_up=0.1, retries=0)
    with pytest.raises(RoundFailedError, match="0 of 3 clients"):
        deployment.run_beside(config, lambda: None, options=nobody, max_examples=max_examples)
    clients = start_all(deployment, config)
    finished = resume_serving(deployment.directory / "run", None, None, deployment.options(), deployment.console())
    for client in clients:
        client.finish()
    assert distance(served(deployment, config).model, simulated(deployment, config).model) < 1e-5
    assert finished.summary["included"] == [CLIENTS]
