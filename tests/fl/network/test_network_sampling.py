"""Trainings that invite some of the present clients: absent ones cost nothing, late ones are not waited for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fl.config.run_config import RunConfig
from fl.config.served import settle
from fl.errors import ConfigError
from fl.network import client as joining
from fl.network.errors import NetworkError, RoundFailedError
from fl.network.own_inputs import announced_in
from fl.network.policy import Policy
from secagg import Aborted, Adversary, DropReason, GraphKind, PlanError, Round
from tests.fl.network.harness import Deployment, until
from tests.fl.network.sampled import Population
from transport import Deadlines, InputWithheldError
from transport.certificates import exclusion
from transport.tcp import Retry

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("one_thread")]

ENROLLED = 10


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    return Deployment(tmp_path, monkeypatch, ENROLLED)


def test_absent_clients_cost_nothing_and_each_round_asks_others(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten are enrolled, six are present, four are asked; no deadline is waited for, and means are exact."""
    population = Population(deployment, monkeypatch, sample=4, rounds=6)
    finished = population.serve(lambda: population.start(range(6)))
    # The first round has two sessions.
    assert len(population.hosts) == 7
    for host in population.hosts:
        assert len(host.client_ids) == 4
        assert set(host.client_ids) <= set(range(6))
        assert not host.dropped
        population.assert_exact(host, included=4)
        # The others have waited: the model was not sent to them.
        assert population.offered[host.offer.nonce] == set(host.client_ids)
    assert finished.summary["included"] == [4] * 6
    # The same clients every time would have probability 1/15^6.
    assert len({host.client_ids for host in population.hosts}) > 1
    metrics = (deployment.directory / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["sampled"] for line in metrics] == [4] * 6
    assert {client.said[-1] for client in population.clients.values()} == {"the training is over"}


def test_a_round_continues_as_soon_as_enough_updates_are_there(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five are asked and three are enough; the others come after the session's end."""
    population = Population(deployment, monkeypatch, sample=3, rounds=2)
    population.in_time = 3
    finished = population.serve(lambda: population.start(range(8)), over_select=5 / 3)
    for host in population.hosts:
        assert len(host.client_ids) == 5
        population.assert_exact(host, included=3)
        assert {drop.reason for drop in host.dropped.values()} == {DropReason.DEADLINE}
        assert {drop.round for drop in host.dropped.values()} == {Round.MASKED_INPUT_COLLECTION}
        assert len(host.dropped) == 2
    assert finished.summary["included"] == [3, 3]
    # They were told to come back, and did.
    late = {i for host in population.hosts for i in host.dropped}
    assert all(any(line.startswith("not in this round") for line in population.clients[i].said) for i in late)


def test_with_fewer_than_are_asked_a_round_begins_after_a_moment(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = Population(deployment, monkeypatch, sample=4, rounds=1)
    deadlines = Deadlines(advertise_keys=1.0, share_keys=30, masked_input_collection=30, unmasking=30)
    finished = population.serve(
        lambda: population.start(range(5)), options={"deadlines": deadlines}, over_select=1.5, min_clients=3
    )
    assert finished.summary["included"][0] >= 4
    for host in population.hosts:
        assert 4 <= len(host.client_ids) <= 5
        population.assert_exact(host)


def gone_at(population: Population, victims: set[int]) -> type[joining.Participant]:
    """Return a client that, if it is one of these, breaks off when its first update is due."""

    class Gone(population.client):  # type: ignore[name-defined, misc]
        def _input(self, offer: Any) -> Any:
            if self._options.client_id in victims and announced_in(offer).scales is not None:
                raise KeyError("gone")
            return super()._input(offer)

    return Gone


@pytest.mark.parametrize("adversary", Adversary, ids=lambda mode: mode.value)
def test_a_sparse_graph_with_every_adversary_and_a_client_that_vanishes(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, adversary: Adversary
) -> None:
    population = Population(deployment, monkeypatch, sample=8, rounds=2, dropout=0.25)
    policy = Policy(adversary=adversary, graph=GraphKind.SPARSE)

    def beside() -> None:
        population.start(range(9), policy=policy, make=gone_at(population, {2}))

    deadlines = Deadlines(advertise_keys=5, share_keys=30, masked_input_collection=4, unmasking=30)
    with pytest.raises(KeyError, match="gone"):
        population.serve(
            beside, adversary=adversary, graph=GraphKind.SPARSE, min_clients=6, options={"deadlines": deadlines}
        )
    for client_id, client in population.clients.items():
        if client_id != 2:
            client.finish()
    for host in population.hosts:
        params = host.offer.params
        assert not params.is_complete
        assert params.adversary is adversary
        assert set(host.dropped) <= {2}
        population.assert_exact(host, included=len(host.client_ids) - len(host.dropped))


@pytest.mark.parametrize(("adversary", "is_sparse"), [("honest-but-curious", True), ("malicious", False)])
def test_default_clients_accept_the_graph_chosen_by_auto(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, adversary: str, is_sparse: bool
) -> None:
    """The test lets `auto` choose a sparse graph for this few clients."""
    monkeypatch.setattr("secagg.graph_choice._WORTHWHILE", 1)
    population = Population(deployment, monkeypatch, sample=8, rounds=2, dropout=0.25)

    def beside() -> None:
        population.start(range(8), policy=Policy(adversary=Adversary(adversary)))

    population.serve(beside, adversary=adversary, min_clients=6)
    assert any(f"graph {'sparse' if is_sparse else 'complete'}:" in line for line in deployment.output)
    assert len(population.hosts) >= 2
    for host in population.hosts:
        assert host.offer.params.is_complete != is_sparse
        population.assert_exact(host)


def test_a_client_whose_policy_is_the_complete_graph_declines_a_sparse_one_and_says_why(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = Population(deployment, monkeypatch, sample=8, rounds=1, dropout=0.25)

    def beside() -> None:
        population.start(range(7), policy=Policy(graph=GraphKind.SPARSE))
        population.start([7], policy=Policy())

    deadlines = Deadlines(advertise_keys=3, share_keys=30, masked_input_collection=30, unmasking=30)
    with pytest.raises(NetworkError, match=r"a sparse graph, of \d neighbours among 8 clients, but this client takes"):
        population.serve(beside, graph=GraphKind.SPARSE, min_clients=7, options={"deadlines": deadlines})
    for client_id in range(7):
        population.clients[client_id].finish()
    assert any("1 client declined: a sparse graph, of" in line for line in deployment.output)
    population.assert_exact(population.hosts[-1], included=7)


def test_impossible_settings_of_a_sample_are_refused() -> None:
    config = RunConfig.of(clients=20, sample=10, adversary="malicious")

    def settled(**changes: Any) -> Any:
        return settle(config, **{"min_clients": None, "max_examples": None} | changes)

    settings = settled(over_select=1.3)
    assert (settings.invited(config), settings.min_clients) == (13, 7)
    assert settled(over_select=100).invited(config) == 20
    # Ten of thirteen are enough, by the threshold and the expected dropouts.
    plan = settings.plans(config, (5,)).plan(13)
    assert (plan.parameters.threshold, plan.expected_dropouts) == (7, 3)
    with pytest.raises(PlanError, match="fewer than the threshold"):
        settled(over_select=2.0).plans(config, (5,)).plan(20)
    for factor in (0.9, 101, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="over-select must be between 1 and 100"):
            settled(over_select=factor)
    with pytest.raises(ConfigError, match="min-clients must be between 2 and the 10 sampled clients, not 11"):
        settled(over_select=1.0, min_clients=11)


def test_an_impossible_round_is_one_round_without_a_result(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round is aborted at each try, and the training continues with the present clients."""
    population = Population(deployment, monkeypatch, sample=4, rounds=3, clip=1.0)

    class Failing(population.client):  # type: ignore[name-defined, misc]
        def _input(self, offer: Any) -> Any:
            if offer.number == 2:
                raise InputWithheldError("none today")
            return super()._input(offer)

    deadlines = Deadlines(advertise_keys=20, share_keys=30, masked_input_collection=1.0, unmasking=30)
    finished = population.serve(
        lambda: population.start(range(5), make=Failing),
        options={"deadlines": deadlines, "retries": 1, "max_failed_rounds": 2},
    )
    assert finished.summary["included"] == [4, 0, 4]
    (line,) = [line for line in deployment.output if line.startswith("round 2 was aborted 2 times")]
    assert line.endswith("no result")
    assert [host.offer.number for host in population.hosts] == [1, 2, 2, 3]


def test_the_server_ends_after_the_given_number_of_failed_rounds(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = Population(deployment, monkeypatch, sample=4, rounds=9, clip=1.0)

    class Failing(population.client):  # type: ignore[name-defined, misc]
        def _input(self, offer: Any) -> Any:
            raise InputWithheldError("none today")

    deadlines = Deadlines(advertise_keys=20, share_keys=30, masked_input_collection=0.5, unmasking=30)
    options = {"deadlines": deadlines, "retries": 0, "max_failed_rounds": 2}
    with pytest.raises(RoundFailedError, match=r"2 failed rounds in a row, .* \(--max-failed-rounds\)"):
        population.serve(lambda: population.start(range(5), make=Failing, max_failed_rounds=3), options=options)
    assert [host.offer.number for host in population.hosts] == [1, 2]


def test_a_client_excluded_during_training_is_in_no_later_round(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A list that is broken for a moment changes nothing, and the operator is told."""
    # These rounds take less than the second for which a changed list must stay unchanged.
    monkeypatch.setattr(exclusion, "_SETTLE_SECONDS", 0.05)
    listed = deployment.directory / "excluded"
    listed.write_text("9  # left the consortium\n")
    population = Population(deployment, monkeypatch, sample=3, rounds=8, clip=1.0)

    def beside() -> None:
        population.start(range(5))
        until(lambda: len(population.hosts) >= 2, 30)
        listed.write_text("9\nnobody\n")
        until(lambda: len(population.hosts) >= 4, 30)
        listed.write_text("9\n3\n")

    with pytest.raises(NetworkError, match="EXCLUDED: client 3 is on this server's list of excluded clients"):
        population.serve(beside, options={"exclude": listed})
    for client_id in (0, 1, 2, 4):
        population.clients[client_id].finish()
    # A round that had sampled the client, and not yet its key, is aborted and tried again without it.
    aborted = [host for host in population.hosts if isinstance(host.outcome, Aborted)]
    assert len(aborted) <= 1
    assert all(3 in host.client_ids for host in aborted)
    completed = [host for host in population.hosts if host not in aborted]
    assert [host.offer.number for host in completed] == list(range(1, 9))
    for host in completed:
        population.assert_exact(host, included=3)
    assert 3 not in completed[-1].client_ids
    assert any("line 2 is neither a client id" in record.getMessage() for record in caplog.records)
    (refused,) = [record for record in caplog.records if getattr(record, "reason", "") == "excluded"]
    assert getattr(refused, "client_id", None) == 3


def test_an_unreadable_list_keeps_the_server_from_starting(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = deployment.directory / "excluded"
    listed.write_text("all of them\n")
    population = Population(deployment, monkeypatch, sample=3, rounds=1)
    deployment.listening.set()
    with pytest.raises(NetworkError, match="line 1 is neither a client id"):
        population.serve(lambda: None, options={"exclude": listed})
    assert not (deployment.directory / "run").exists()


def test_waiting_clients_are_told_so_and_keep_their_connection(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is not asked for a whole round receives WAITING on one connection, and no model."""
    population = Population(deployment, monkeypatch, sample=3, rounds=1, clip=1.0)
    started = time.monotonic()

    class Held(population.client):  # type: ignore[name-defined, misc]
        def _input(self, offer: Any) -> Any:
            vector = super()._input(offer)
            time.sleep(max(0.0, 1.0 - (time.monotonic() - started)))
            return vector

    population.serve(lambda: population.start(range(8), make=Held))
    (host,) = population.hosts
    population.assert_exact(host, included=3)
    assert host.counters.connections == 3
    assert population.offered[host.offer.nonce] == set(host.client_ids)
