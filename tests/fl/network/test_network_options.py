"""Sources of options: the command line, before the environment, before a settings file, before the default."""

from __future__ import annotations

import dataclasses
import inspect
import json
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fl.commands.app import app
from fl.commands.options import CLIENT_LIMITS, chosen_deadlines, chosen_limits
from fl.privacy.policy import PrivacyPolicy
from fl.runs.checkpoint import RunFolder
from tests.fl.network.harness import Program, programs
from tests.fl.network.test_network_upgrades import FIRST
from tests.fl.runs import assert_refused, invoke
from transport import Deadlines
from transport.certificates.authority import Authority
from transport.tcp import Limits

pytestmark = pytest.mark.slow

SERVE = ("serve", "--plaintext", "--clients", 4, "--out", "run")
JOIN = ("join", "localhost:1", "--id", 0, "--plaintext", "--shard", "0/4")


class _NotedError(Exception):
    """Stops the command before it works."""


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the arguments with which `train`, `serve` and `join` would have started to work."""
    calls: list[Any] = []

    def note(*arguments: Any, **options: Any) -> NoReturn:
        calls.append((*arguments, options))
        raise _NotedError

    for name in (
        "fl.commands.train.start_training", "fl.network.server.start_serving", "fl.network.server.resume_serving",
        "fl.commands.join._take_part",
    ):  # fmt: skip
        monkeypatch.setattr(name, note)
    return calls


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    (callback,) = (command.callback for command in app.registered_commands if command.callback.__name__ == name)
    return dict(inspect.signature(callback).parameters)


@pytest.mark.parametrize("command", [("train",), SERVE])
def test_the_command_line_comes_before_the_environment_before_the_file_before_the_default(
    command: tuple[object, ...], noted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text("rounds = 3\nseed = 3\n[local]\nepochs = 3\n")
    for name in ("ROUNDS", "SEED"):
        monkeypatch.setenv(f"SECAGG_{command[0]}_{name}".upper(), "4")
    result = invoke(*command, "--config", path, "--seed", 5)
    assert isinstance(result.exception, _NotedError), result.output
    config = noted[0][0]
    assert (config.local.batch_size, config.local.epochs, config.rounds, config.seed) == (10, 3, 4, 5)


def test_a_client_can_start_without_command_line_options(
    noted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "join.toml"
    path.write_text(
        'server = "[::1]:7000"\nid = 1\nplaintext = true\nshard = "0/4"\nmax_epochs = 5\n[limits]\nidle_seconds = 9\n'
    )
    monkeypatch.setenv("SECAGG_JOIN_CONFIG", str(path))
    monkeypatch.setenv("SECAGG_JOIN_ID", "2")
    monkeypatch.setenv("SECAGG_JOIN_ONCE", "1")
    result = invoke("join")
    assert isinstance(result.exception, _NotedError), result.output
    options = noted[0][0]
    assert (options.client_id, options.address, options.once) == (2, (("::1", 7000),), True)
    assert options.policy.max_epochs == 5
    assert options.limits == Limits(idle_seconds=9)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SECAGG_JOIN_SEVER", "unknown environment variable SECAGG_JOIN_SEVER: did you mean SECAGG_JOIN_SERVER?"),
        ("SECAGG_JOIN_CLIENT_ID", "unknown environment variable SECAGG_JOIN_CLIENT_ID: did you mean SECAGG_JOIN_"),
        ("SECAGG_JOIN_Q", "unknown environment variable SECAGG_JOIN_Q"),
    ],
)
def test_an_environment_variable_that_is_not_an_option_is_named(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert_refused(invoke(*JOIN), said)


@pytest.mark.parametrize("name", ["SECAGG_SERVE_EXCLUDE", "SECAGG_SERVE_CRL"])
def test_an_empty_variable_does_not_admit_excluded_clients(
    name: str, noted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "serve.toml"
    path.write_text('exclude = "excluded"\ncrl = "ca.crl"\n')
    monkeypatch.setenv(name, "")
    for options in ((), ("--config", path), ("--exclude", "excluded", "--crl", "ca.crl")):
        assert_refused(invoke(*SERVE, *options), f"the environment variable {name} is empty")
    monkeypatch.delenv(name)
    result = invoke(*SERVE, "--config", path)
    assert isinstance(result.exception, _NotedError), result.output
    assert (noted[0][3].exclude, noted[0][3].crl) == (Path("excluded"), Path("ca.crl"))


def test_the_names_of_the_status_page_are_checked(noted: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECAGG_SERVE_WATCH_HOST", "server, stats.example.org")
    assert_refused(invoke(*SERVE), "--watch-host is for the status page: give --watch")
    for name in ("*", "server:9100", "server,", "http://server"):
        assert_refused(invoke(*SERVE, "--watch", ":9100", "--watch-host", name), "is not a host name")
    result = invoke(*SERVE, "--watch", ":9100")
    assert isinstance(result.exception, _NotedError), result.output
    assert noted[0][3].watch_hosts == ("server", "stats.example.org")


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        (JOIN, "sever = 1", "unknown sever: did you mean server?"),
        (JOIN, "[limit]\nidle_seconds = 1", "unknown section [limit]: sections are data, personal, privacy, limits"),
        (JOIN, "[limits]\nidel_seconds = 1", "unknown idel_seconds in [limits]: did you mean idle_seconds?"),
        (JOIN, "idle_seconds = 1", "unknown idle_seconds: did you mean idle_seconds in [limits]?"),
        (JOIN, "[limits]\nidle_seconds = 0", "idle-seconds must be above 0, not 0.0"),
        (JOIN, "certs = 1", "certs must be a text in quotes, not 1"),
        (SERVE, "[limits]\nmemory = -1", "memory must be above 0, not -1"),
        (SERVE, 'resume = "run"', "unknown resume: settings are listen"),
    ],
)
def test_a_fault_in_a_file_is_one_line(command: tuple[object, ...], text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text(text)
    assert_refused(invoke(*command, "--config", tmp_path / "file.toml"), said)


def test_one_file_starts_a_run_and_resumes_it(noted: list[Any], tmp_path: Path) -> None:
    """Settings that are fixed at the start are ignored there; on the command line they would be a mistake."""
    path = tmp_path / "serve.toml"
    path.write_text("plaintext = true\nretries = 7\nrounds = 5\n[data]\nclients = 3\n[local]\nepochs = 2\n")
    assert isinstance(invoke("serve", "--config", path, "--out", tmp_path).exception, _NotedError)
    assert isinstance(invoke("serve", "--config", path, "--resume", FIRST).exception, _NotedError)
    (config, *_), (resumed, rounds, _, options, *_) = noted
    assert (config.data.clients, config.local.epochs, config.rounds) == (3, 2, 5)
    assert (resumed, rounds, options.retries) == (FIRST, 5, 7)
    assert RunFolder(FIRST).load_config()[0].local.epochs != 2
    assert_refused(invoke("serve", "--config", path, "--resume", FIRST, "--epochs", 2), "leave out --epochs")


@pytest.mark.parametrize(
    ("name", "fields"), [("serve", [one.name for one in dataclasses.fields(Limits)]), ("join", CLIENT_LIMITS)]
)
def test_every_limit_is_an_option(name: str, fields: list[str]) -> None:
    defaults = {name: parameter.default for name, parameter in parameters_of(name).items()}
    assert defaults.keys() >= set(fields)
    assert chosen_limits(defaults) == Limits()
    if name == "serve":
        for field in fields:
            assert chosen_limits({**defaults, field: 7}) != Limits(), field


def test_every_deadline_is_an_option() -> None:
    defaults = {name: parameter.default for name, parameter in parameters_of("serve").items()}
    changed = {name: 7.0 for name in defaults if name.split("_")[0] in ("join", "reply", "training", "download")}
    assert chosen_deadlines({**defaults, **changed}) == Deadlines(
        **{field.name: 7.0 for field in dataclasses.fields(Deadlines)}
    )


@pytest.mark.parametrize("value", [0, -1, "nan"])
@pytest.mark.parametrize(
    "name", [one.name for one in dataclasses.fields(Limits)] + ["join_seconds", "download_seconds"]
)
def test_a_limit_out_of_range_is_named_as_its_option(name: str, value: object) -> None:
    option = name.replace("_", "-")
    result = invoke(*SERVE, f"--{option}", value)
    if value == "nan" and isinstance(getattr(Limits(), name, 0.0), int):
        assert result.exit_code == 2
        assert f"--{option}" in result.stderr
    else:
        assert_refused(result, f"{option} must be above 0, not {value}")


@pytest.mark.parametrize("command", ["train", "serve", "join"])
def test_no_option_holds_a_secret_but_by_its_file(command: str) -> None:
    """Other users of a machine may see environments and command lines."""
    for name, parameter in parameters_of(command).items():
        if any(word in name for word in ("key", "secret", "password", "certs")):
            assert parameter.annotation.__origin__ == Path | None, name


@pytest.mark.live
def test_a_terminated_client_continues_in_its_round_after_a_restart(tmp_path: Path) -> None:
    """All of them use settings files, and logs for machines."""
    certs = tmp_path / "certs"
    Authority.create(certs).issue(server_names=["127.0.0.1"], client_ids=range(3))

    def settings(name: str, text: str) -> tuple[str, Path]:
        (tmp_path / name).write_text(f"certs = {str(certs)!r}\n{text}")
        return "--config", tmp_path / name

    served = "listen = '127.0.0.1:0'\nrounds = 2\nlog_json = true\n"
    training = "[data]\nclients = 3\nmodel = 'logistic'\n[local]\nepochs = 60\n"
    patient = "[limits]\njoin_seconds = 60\ntraining_seconds = 60\n"
    with programs() as start:
        server = start("serve", *settings("serve.toml", served + training + patient), "--out", tmp_path / "run")
        address = server.wait_for("listening on ").removeprefix("listening on ")

        def join(client_id: int) -> Program:
            own = f"server = {address!r}\nid = {client_id}\nshard = '{client_id}/3'\nlog_json = true\n"
            state = f"state = {str(tmp_path / f'state-{client_id}')!r}\n"
            return start("join", *settings(f"join-{client_id}.toml", own + state))

        clients = [join(client_id) for client_id in range(3)]
        clients[2].wait_for("round 2/2: training")
        clients[2].send(signal.SIGTERM)
        assert clients[2].wait() == 130, clients[2].lines
        ended = clients[2].lines
        clients[2] = join(2)
        clients[2].wait_for("round 2/2: going on where this client was")
        assert server.wait() == 0, server.lines
        assert [client.wait() for client in clients] == [0, 0, 0], [client.lines for client in clients]
    last = [json.loads(line) for line in ended][-1]
    assert last["message"] == "interrupted after 1 rounds; the open round can be continued"
    for client in clients:
        assert {json.loads(line)["level"] for line in client.lines} <= {"INFO", "WARNING"}
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["included"] for record in records] == [[0, 1, 2]] * 2


@pytest.mark.live
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_waiting_client_ends_on_a_signal(sent: signal.Signals) -> None:
    """It waits for an absent server; it ends on a signal, even if its parent ignores Ctrl-C."""
    with programs() as start:
        client = start("join", "127.0.0.1:1", "--id", 0, "--plaintext", "--shard", "0/4")
        client.wait_for("no connection to 127.0.0.1:1 yet")
        client.send(sent)
        assert client.wait(10) == 130, client.lines
    assert "interrupted after 0 rounds; the open round continues without this client" in client.lines[-1]
    assert "Traceback" not in "\n".join(client.lines)


PRIVATE = ("--max-epsilon", 3, "--delta", 1e-6, "--state", "state")


def test_a_client_has_limits_of_privacy_from_all_sources(
    noted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "join.toml"
    path.write_text(
        f'state = "{tmp_path / "state"}"\n[privacy]\nmax_epsilon = 8\ndelta = 1e-5\nmax_epsilon_per_round = 0.5\n'
        "min_honest = 10\nassume_corrupt = 0.1\n"
    )
    monkeypatch.setenv("SECAGG_JOIN_MAX_EPSILON", "4")
    result = invoke(*JOIN, "--config", path, "--min-honest", 12)
    assert isinstance(result.exception, _NotedError), result.output
    policy = noted[0][0].policy
    assert policy.privacy == PrivacyPolicy(max_epsilon=4.0, delta=1e-5, max_epsilon_per_round=0.5, min_honest=12)
    assert policy.corrupt == 0.1


def test_without_a_limit_a_client_has_no_policy_of_privacy(noted: list[Any]) -> None:
    result = invoke(*JOIN)
    assert isinstance(result.exception, _NotedError), result.output
    assert noted[0][0].policy.privacy is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-epsilon", 3), "max-epsilon needs a delta"),
        (("--delta", 1e-5), "delta: only with max-epsilon"),
        (("--max-epsilon-per-round", 1, "--min-honest", 3), "max-epsilon-per-round, min-honest: only with max-epsilon"),
        ((*PRIVATE, "--max-epsilon", "nan"), "max-epsilon is nan"),
        ((*PRIVATE, "--delta", 0), "delta is 0"),
        ((*PRIVATE, "--max-epsilon-per-round", 1e-3), "is out of reach"),
        ((*PRIVATE, "--min-honest", 0), "min-honest is 0"),
        ((*PRIVATE, "--assume-corrupt", 1), "assume-corrupt must be at least 0 and below 1"),
    ],
)
def test_limits_of_privacy_that_cannot_be_are_refused(options: tuple[object, ...], said: str) -> None:
    assert_refused(invoke(*JOIN, *options), said)


def test_limits_of_privacy_without_a_state_folder_are_refused_before_the_client_connects() -> None:
    assert_refused(invoke(*JOIN, "--max-epsilon", 3, "--delta", 1e-6), "max-epsilon needs --state")


def test_a_private_run_is_served_with_the_options_of_train(noted: list[Any]) -> None:
    result = invoke(*SERVE, "--epsilon", 4, "--delta", 1e-6, "--l2-clip", 0.5, "--noise", "gaussian", "--ring-bits", 20)
    assert isinstance(result.exception, _NotedError), result.output
    privacy = noted[0][0].privacy
    assert (privacy.epsilon, privacy.delta, privacy.l2_clip) == (4, 1e-6, 0.5)
    assert (privacy.noise, privacy.ring_bits) == ("gaussian", 20)
