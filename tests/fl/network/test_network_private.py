"""Private rounds over TLS: noise from each client, terms that it checks, and ledgers on both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.errors import ConfigError
from fl.network import client as joining
from fl.network.announcement import RoundAnnouncement, decode_announcement, round_context
from fl.network.errors import NetworkError
from fl.network.policy import Policy
from fl.network.server import FinishedServing, resume_serving
from fl.privacy.exact_noise import ExactNoise
from fl.privacy.ledger import EpsilonSpentError, Ledger
from fl.privacy.mechanism import rotation_seed
from fl.privacy.policy import PrivacyPolicy
from fl.privacy.samplers import skellam
from fl.privacy.terms import PrivateTerms
from secagg import Adversary, Completed, PlanError
from secagg.algebra import ring
from tests.fl.network.harness import Client, Deployment
from tests.fl.network.sampled import Population
from transport import InputWithheldError, SessionHost
from transport.tcp import Retry

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

PRIVATE: dict[str, Any] = {"epsilon": 20.0, "delta": 1e-3, "l2_clip": 0.5, "rounds": 2}
LIMITS = PrivacyPolicy(max_epsilon=25.0, delta=1e-3)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    return Deployment(tmp_path, monkeypatch)


class Training:
    """A private training whose clients have limits, with all sessions."""

    def __init__(self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.population = Population(deployment, monkeypatch, **{**PRIVATE, **changes})
        self.deployment = deployment
        self.run = deployment.directory / "run"

    def state(self, client_id: int) -> Path:
        return self.deployment.directory / f"state-{client_id}"

    def join(self, client_id: int, **changes: Any) -> None:
        options = {"state": self.state(client_id), "policy": Policy(privacy=LIMITS), **changes}
        self.population.start([client_id], **options)

    def join_all(self) -> None:
        for client_id in range(self.deployment.num_clients):
            self.join(client_id)

    def serve(self, beside: Any = None, **serving: Any) -> FinishedServing:
        return self.population.serve(beside or self.join_all, **{"over_select": None, "max_examples": None, **serving})

    @property
    def hosts(self) -> list[SessionHost]:
        return self.population.hosts

    @property
    def ledger(self) -> Ledger:
        return Ledger.load(self.run / "privacy.json")

    def own_ledger(self, client_id: int) -> Ledger:
        return Ledger.load(self.state(client_id) / f"client-{client_id}.privacy" / "privacy.json")

    def terms(self, host: SessionHost) -> PrivateTerms:
        announced = decode_announcement(host.offer.extra)
        assert isinstance(announced, RoundAnnouncement)
        assert announced.privacy is not None
        return announced.privacy

    def said(self, client_id: int, words: str) -> list[str]:
        return [line for line in self.population.clients[client_id].said if words in line]


def test_a_private_training_spends_what_was_planned_on_both_sides(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch)
    finished = training.serve()
    assert finished.summary["included"] == [4, 4]
    assert [host.offer.number for host in training.hosts] == [1, 2]
    assert finished.summary["epsilon"] == pytest.approx(20.0, rel=1e-9)
    # A third of the clients may drop out: the noise is for the others.
    assert [(charge.round, charge.release.honest) for charge in training.ledger.charges] == [(1, 3), (2, 3)]
    for client_id in range(4):
        own = training.own_ledger(client_id)
        # All clients are in all rounds, so that sampling gains nothing and both count the same.
        assert own.spent == pytest.approx(20.0, rel=1e-9)
        assert own.charges == training.ledger.charges
        assert training.said(
            client_id, "round 2/2: 4 updates are in the mean; this client's epsilon so far is 20 of 25"
        )
    for host in training.hosts:
        training.population.assert_exact(host, 4)
        assert host.offer.params.modular
        announced = decode_announcement(host.offer.extra)
        assert isinstance(announced, RoundAnnouncement)
        assert announced.scales is None
        terms = training.terms(host)
        outcome = host.outcome
        assert isinstance(outcome, Completed)
        inputs = training.population.inputs[host.offer.nonce]
        rotation = rotation_seed(round_context(host.offer.number, host.offer.extra))
        # One input alone is noise around an update of at most the clip: three quarters of it make the planned sum's.
        alone, _ = terms.mechanism.decode(inputs[0], rotation=rotation)
        deviation = np.sqrt(terms.mechanism.variance) * terms.mechanism.granularity
        assert 0.6 * deviation < alone.std() < 1.5 * deviation + 0.5
        assert deviation > 0.1
    assert len({training.terms(host).mechanism.variance for host in training.hosts}) == 1


def test_exact_noise_is_added_at_the_clients_and_taken_off_at_the_server(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch, exact_noise=True)
    finished = training.serve()
    assert finished.summary["included"] == [4, 4]
    assert finished.summary["epsilon"] == pytest.approx(20.0, rel=1e-9)
    for host in training.hosts:
        params, outcome = host.offer.params, host.outcome
        assert isinstance(outcome, Completed)
        assert params.noise_components > 0
        # Nobody dropped out: all components go, of all clients.
        assert {component: sorted(keys) for component, keys in outcome.noise_keys.items()} == {
            component: [0, 1, 2, 3] for component in range(1, params.noise_components + 1)
        }
        mechanism, inputs = training.terms(host).mechanism, training.population.inputs[host.offer.nonce]
        noise = ExactNoise(mechanism, params)
        left = ring.centered_lift(noise.take_off(outcome.sum, outcome.noise_keys), params.ring_bits)
        bases = sum(skellam(made.base_key, noise.base_variance, mechanism.dimension) for made in inputs.values())
        assert left.tolist() == (sum(made.integers for made in inputs.values()) + bases).tolist()
    for client_id in range(4):
        # The least noise of any sum is as planned, so that the figures are those of ordinary noise.
        assert training.own_ledger(client_id).spent == pytest.approx(20.0, rel=1e-9)


def test_two_clients_with_the_same_examples_send_different_noise(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch, rounds=1, epsilon=10.0)
    monkeypatch.setattr(deployment, "data", lambda client_id, config: Deployment.data(deployment, 0, config))
    training.serve()
    (inputs,) = training.population.inputs.values()
    assert len({vector.tobytes() for vector in inputs.values()}) == 4


def test_the_run_refuses_what_cannot_be_planned_before_it_listens(deployment: Deployment) -> None:
    config = deployment.config(**PRIVATE | {"ring_bits": 3}, corrupt=0.6)
    with pytest.raises(PlanError) as error:
        deployment.run_beside(config, lambda: None)
    assert len(error.value.reasons) >= 1
    assert not deployment.listening.is_set()
    assert not (deployment.directory / "run").exists()
    config = deployment.config(**PRIVATE)
    with pytest.raises(PlanError, match="sparse graph"):
        deployment.run_beside(config, lambda: None, graph="sparse")
    with pytest.raises(ConfigError, match="over-select does not go with epsilon"):
        deployment.run_beside(deployment.config(**PRIVATE, sample=3), lambda: None, over_select=1.2)
    with pytest.raises(ConfigError, match="max-examples does not go with epsilon"):
        deployment.run_beside(config, lambda: None, max_examples=10)


def test_clients_that_want_privacy_decline_a_run_without_noise(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch, epsilon=None, delta=None, l2_clip=1.0, rounds=1)

    def beside() -> None:
        training.join(3)
        for client_id in range(3):
            training.join(client_id, policy=Policy())

    with pytest.raises(NetworkError, match="the session has no noise, but this client has a limit of privacy"):
        training.serve(beside)
    assert not training.own_ledger(3).charges
    assert any("1 client declined: the session has no noise" in line for line in deployment.output)


def test_a_client_without_limits_adds_noise_and_is_told_how_to_have_some(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch, rounds=1)

    def beside() -> None:
        for client_id in range(4):
            training.join(client_id, policy=Policy(), state=None)

    assert training.serve(beside).summary["included"] == [4]
    assert training.said(0, "to bound your own, give --max-epsilon")


def test_limits_without_a_folder_for_the_ledger_are_refused(deployment: Deployment) -> None:
    client = deployment.client(0, deployment.config(), policy=Policy(privacy=LIMITS))
    client.start()
    with pytest.raises(ConfigError, match="max-epsilon needs --state"):
        client.finish()


def test_a_ledger_is_used_by_one_process_at_a_time(deployment: Deployment, tmp_path: Path) -> None:
    def client() -> Client:
        options = {"state": tmp_path / "state", "policy": Policy(privacy=LIMITS), "address": ("127.0.0.1", 1)}
        return deployment.client(0, deployment.config(), **options)

    first, second = client(), client()
    first.start()
    while not (tmp_path / "state" / "client-0.privacy" / "privacy.json").exists():
        pass
    second.start()
    with pytest.raises(ConfigError, match="in use by another process"):
        second.finish()


def test_a_client_stops_when_its_limit_is_reached_and_the_server_is_told_no_figure(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch, rounds=2)

    def beside() -> None:
        for client_id in range(3):
            training.join(client_id)
        training.join(3, policy=Policy(privacy=PrivacyPolicy(max_epsilon=15.0, delta=1e-3)))

    with pytest.raises(NetworkError, match=r"would bring this client above its limit of 15: 12\.76 are spent$"):
        training.serve(beside)
    assert len(training.own_ledger(3).charges) == 1
    records = [json.loads(line) for line in (training.run / "metrics.jsonl").read_text().splitlines()]
    assert [len(record["included"]) for record in records] == [4, 3]
    (declined,) = [line for line in deployment.output if "declined" in line]
    assert "the session is not within this client's limits of privacy" in declined
    assert "12.76" not in declined


def test_an_aborted_session_is_charged_and_its_repetition_too(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four must stay; in the first attempt one withholds its input after the others have sent theirs."""
    training = Training(deployment, monkeypatch, rounds=1, epsilon=30.0)
    limits = PrivacyPolicy(max_epsilon=100.0, delta=1e-3)
    withheld: list[int] = []

    class Withholding(training.population.client):  # type: ignore[name-defined, misc]
        def _input(self, offer: Any) -> Any:
            if not withheld:
                withheld.append(offer.number)
                raise InputWithheldError("not this time")
            return super()._input(offer)

    def beside() -> None:
        for client_id in range(3):
            training.join(client_id, policy=Policy(privacy=limits))
        training.join(3, policy=Policy(privacy=limits), make=Withholding)

    # One round uses up the whole budget of the run, so that its second attempt is not begun.
    with pytest.raises(EpsilonSpentError, match="round 1 would bring epsilon to"):
        training.serve(beside, min_clients=4)
    assert len(training.ledger.charges) == 1
    assert len(training.hosts) == 1
    for client_id in range(3):
        assert len(training.own_ledger(client_id).charges) == 1
    assert not training.own_ledger(3).charges


def test_a_repeated_round_is_charged_on_both_sides_and_has_fresh_noise(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch, rounds=3, epsilon=60.0)
    limits = PrivacyPolicy(max_epsilon=1000.0, delta=1e-3)
    withheld: list[int] = []

    class Withholding(training.population.client):  # type: ignore[name-defined, misc]
        def _input(self, offer: Any) -> Any:
            if not withheld:
                withheld.append(offer.number)
                raise InputWithheldError("not this time")
            return super()._input(offer)

    def beside() -> None:
        for client_id in range(3):
            training.join(client_id, policy=Policy(privacy=limits))
        training.join(3, policy=Policy(privacy=limits), make=Withholding)

    with pytest.raises(EpsilonSpentError, match="round 3 would bring epsilon to"):
        training.serve(beside, min_clients=4)
    assert [charge.round for charge in training.ledger.charges] == [1, 1, 2]
    for client_id in range(3):
        assert [charge.round for charge in training.own_ledger(client_id).charges] == [1, 1, 2]
    first, second, third = training.hosts
    assert first.offer.extra == second.offer.extra
    one, other = (training.population.inputs[host.offer.nonce] for host in (first, second))
    assert not np.array_equal(one[0], other[0])
    assert isinstance(third.outcome, Completed)
    # The model of the finished rounds is there, and clients were told that the training is over.
    assert (training.run / "model.safetensors").exists()
    assert training.said(0, "the training is over")


def test_a_sampled_round_asks_each_client_on_its_own_and_counts_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    training = Training(Deployment(tmp_path, monkeypatch, 8), monkeypatch, sample=5, rounds=6, epsilon=60.0)
    drawn = iter([(0, 1, 2, 3, 4), (), (2, 5, 7, 1, 0, 6), (3,), (0, 1, 2, 3, 4, 5, 6, 7), (4, 5, 6, 7)])
    monkeypatch.setattr("fl.network.invitations.poisson_sample", lambda count, rate: next(drawn))
    limits = PrivacyPolicy(max_epsilon=1000.0, delta=1e-3)

    def beside() -> None:
        for client_id in range(8):
            training.join(client_id, policy=Policy(privacy=limits))

    finished = training.serve(beside, over_select=1.0, min_clients=8)
    assert finished.summary["included"] == [5, 0, 6, 0, 8, 4]
    assert [charge.round for charge in training.ledger.charges] == [1, 3, 5, 6]
    assert {charge.release.sampling_rate for charge in training.ledger.charges} == {5 / 8}
    # Whatever the number of clients, the sum has the same noise, so that every round costs the same.
    noise = {round(charge.release.honest * charge.release.variance, 6) for charge in training.ledger.charges}
    assert len(noise) == 1
    assert [host.offer.params.num_clients for host in training.hosts] == [5, 6, 8, 4]
    # A client counts the rounds that it was in, each without a gain by sampling.
    assert [charge.round for charge in training.own_ledger(4).charges] == [1, 5, 6]
    assert {charge.release.sampling_rate for charge in training.own_ledger(4).charges} == {1.0}
    records = [json.loads(line) for line in (training.run / "metrics.jsonl").read_text().splitlines()]
    assert "too few clients were sampled for a private sum" in records[1]["aborted"]
    assert records[1]["epsilon"] == records[0]["epsilon"]


def test_figures_and_held_out_scores_have_noise_and_are_charged(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(
        deployment, monkeypatch, holdout=0.25, epsilon=100.0, figures_cost=0.5, figure_ranges=("loss=0:9",)
    )
    limits = PrivacyPolicy(max_epsilon=200.0, delta=1e-3)

    def beside() -> None:
        for client_id in range(4):
            training.join(client_id, policy=Policy(privacy=limits))

    training.serve(beside)
    assert [(charge.round) for charge in training.ledger.charges] == [1, 1, 2, 2]
    assert [charge.round for charge in training.own_ledger(0).charges] == [1, 1, 2, 2]
    assert training.own_ledger(0).spent == pytest.approx(training.ledger.spent, rel=1e-9)
    records = [json.loads(line) for line in (training.run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= record["train_loss"] <= 9 for record in records)
    assert {training.terms(host).figure_ranges for host in training.hosts} == {(("loss", 0.0, 9.0),)}
    assert {"train_loss", "train_accuracy", "within_clip"} <= records[0]["stddevs"].keys()
    assert all(host.offer.params.modular for host in training.hosts)


def test_a_private_run_goes_on_with_its_ledger_and_its_rounds_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch)
    training.serve()
    options = deployment.options(address=("127.0.0.1", 0))
    with pytest.raises(ConfigError, match="the noise of this private run is for 2 rounds: it cannot have 3"):
        resume_serving(training.run, 3, None, options, deployment.console())
    with pytest.raises(ConfigError, match="skip is for a run that was restored from an older copy"):
        resume_serving(training.run, None, None, deployment.options(skip=1), deployment.console())
    kept = (training.run / "privacy.json").read_bytes()
    for damage in (b"", b"{}", kept[:-10]):
        (training.run / "privacy.json").write_bytes(damage)
        with pytest.raises(ConfigError, match="restore the file"):
            resume_serving(training.run, None, None, options, deployment.console())
    (training.run / "privacy.json").unlink()
    with pytest.raises(ConfigError, match="restore the file"):
        resume_serving(training.run, None, None, options, deployment.console())


def test_in_honest_but_curious_mode_a_client_that_trusts_the_server_is_told_what_that_means(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment, monkeypatch, rounds=1)
    trusting = Policy(adversary=Adversary.HONEST_BUT_CURIOUS, privacy=LIMITS)

    def beside() -> None:
        for client_id in range(4):
            training.join(client_id, policy=trusting)

    training.serve(beside, adversary="honest-but-curious")
    (line,) = training.said(0, "trusts the server to follow the protocol")
    assert "with its own noise alone, of epsilon" in line
