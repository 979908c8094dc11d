"""The defaults of `secagg serve` and `secagg join`, and their words when a user asks for less."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from fl.aggregation.session_policy import SessionPolicy
from fl.config.run_config import RunConfig
from fl.network.offers import JoinOptions
from fl.network.policy import Policy
from secagg import Adversary, GraphKind
from tests.fl.runs import invoke
from transport.certificates.authority import Authority

CURIOUS = Adversary.HONEST_BUT_CURIOUS


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    Authority.create(tmp_path / "certs").issue(server_names=["localhost"], client_ids=range(4))
    return tmp_path / "certs"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[JoinOptions]:
    """Return the options with which `secagg join` would have begun."""
    options: list[JoinOptions] = []
    monkeypatch.setattr("fl.commands.join._take_part", lambda given, *_: options.append(given))
    return options


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Adversary]:
    """Return the modes in which `secagg serve` would have begun."""
    modes: list[Adversary] = []

    class NotedError(Exception):
        pass

    def note(config: RunConfig, **_: Any) -> NoReturn:
        modes.append(config.adversary)
        raise NotedError

    monkeypatch.setattr("fl.network.server.settle", note)
    return modes


def test_a_policy_has_the_defaults_of_a_session_policy() -> None:
    for name in SessionPolicy.__dataclass_fields__:
        assert getattr(Policy(), name) == getattr(SessionPolicy(), name), name


JOIN = ("join", "localhost:7000", "--id", 0, "--shard", "0/4")
SERVE = ("serve", "--clients", 4, "--out", "run")


def test_with_certificates_it_is_malicious_mode(
    certs: Path, joined: list[JoinOptions], served: list[Adversary]
) -> None:
    result = invoke(*JOIN, "--certs", certs)
    assert result.output == ""
    (options,) = joined
    assert options.policy == Policy()
    assert options.policy.adversary is Adversary.MALICIOUS
    assert (options.policy.min_inputs, options.policy.graph) == (3, GraphKind.COMPLETE)
    assert (options.training, options.max_rounds) == (None, 1000)
    assert invoke(*SERVE, "--certs", certs).output == ""
    assert served == [Adversary.MALICIOUS]


def test_without_certificates_it_is_honest_but_curious_mode(joined: list[JoinOptions], served: list[Adversary]) -> None:
    assert invoke(*JOIN, "--plaintext").output == ""
    assert joined[0].policy == Policy(adversary=CURIOUS)
    assert joined[0].policy.graph is GraphKind.SPARSE
    assert invoke(*SERVE, "--plaintext").output == ""
    assert served == [CURIOUS]


@pytest.mark.parametrize("mode", [member for member in Adversary if member is not Adversary.MALICIOUS])
def test_asking_for_less_is_explained_in_one_line(
    certs: Path, joined: list[JoinOptions], served: list[Adversary], mode: Adversary
) -> None:
    for output in (
        invoke(*JOIN, "--certs", certs, "--require-adversary", mode.value).output,
        invoke(*SERVE, "--certs", certs, "--adversary", mode.value).output,
    ):
        (line,) = output.splitlines()
        assert line.startswith(f"{mode.value} mode: a server that ")
        assert "can learn any client's update; malicious mode, the default with --certs, prevents it" in line
    assert joined[0].policy.adversary is mode
    assert served == [mode]


def test_a_clients_user_chooses_which_weaker_sessions_it_accepts(certs: Path, joined: list[JoinOptions]) -> None:
    options = ("--graph", "sparse", "--min-inputs", 5, "--max-classes", 7, "--training", "ward 7", "--max-rounds", 9)
    assert invoke(*JOIN, "--certs", certs, *options).output == ""
    assert joined[0].policy == Policy(graph=GraphKind.SPARSE, min_inputs=5, max_classes=7)
    assert (joined[0].training, joined[0].max_rounds) == ("ward 7", 9)
