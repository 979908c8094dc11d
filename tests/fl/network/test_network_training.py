"""Trainings over TLS in one process: clients that vanish, are late, or decline, and the files that remain."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import secagg
from fl.errors import ConfigError
from fl.network.client import Participant
from fl.network.errors import NetworkError, RoundFailedError
from fl.network.own_inputs import announced_in
from fl.network.policy import Policy
from fl.network.server import resume_serving
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import FederatedRun
from secagg import Adversary
from tests.fl.network.harness import CLIENTS, Client, Deployment, until
from tests.fl.runs import distance, tiny_config
from transport import Deadlines, Journal, SessionHost, TransportError
from transport.certificates.authority import Authority
from transport.certificates.reading import Credentials
from transport.tcp import PLAINTEXT

_CURIOUS = Adversary.HONEST_BUT_CURIOUS

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]


class Vanishing(Participant):
    """A client that breaks off when its first update is due, after it was measured."""

    def _input(self, offer):
        if announced_in(offer).scales is None:
            return super()._input(offer)
        raise KeyError("gone")


class Slow(Participant):
    """A client whose first update is too late."""

    def _input(self, offer):
        is_update = announced_in(offer).scales is not None
        if is_update and not self.rounds and not hasattr(self, "was_late"):
            self.was_late = True
            time.sleep(5.5)
        return super()._input(offer)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    return Deployment(tmp_path, monkeypatch)


def start_all(clients: list[Client]) -> list[Client]:
    for client in clients:
        client.start()
    return clients


def test_the_model_equals_the_simulations_up_to_rounding(deployment: Deployment) -> None:
    """With one batch an epoch the order of examples does not matter; with several it is the clients' own."""
    config = deployment.config(rounds=2, batch_size=CLIENTS * 60)
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in range(CLIENTS)]))

    finished = deployment.run_beside(config, beside)
    for client in clients:
        client.finish()
        assert client.participant.rounds == 2
    simulated = FederatedRun(config, deployment.dataset, "secure")
    accuracies = [simulated.run_round().accuracy for _ in range(2)]
    assert finished.summary["accuracy"] == accuracies[-1]
    assert finished.summary["included"] == [CLIENTS, CLIENTS]
    served = FederatedRun(config, deployment.dataset, "secure")
    RunFolder(deployment.directory / "run").restore([served], 2)
    assert 0 < distance(served.model, simulated.model) < 1e-5


def test_a_client_that_vanishes_or_is_late_misses_a_round_and_is_in_the_next(deployment: Deployment) -> None:
    """Round 1 without client 3, which dies; round 2 without it, since it is late; round 3 with all."""
    config = deployment.config(rounds=3)
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in (0, 1, 2)]))
        gone = deployment.client(3, config, make=Vanishing)
        gone.start()
        with pytest.raises(KeyError, match="gone"):
            gone.finish()
        clients.append(deployment.client(3, config, make=Slow))
        clients[3].start()

    deadlines = Deadlines(advertise_keys=3, share_keys=5, masked_input_collection=4, unmasking=5)
    finished = deployment.run_beside(config, beside, options=deployment.options(deadlines=deadlines))
    for client in clients:
        client.finish()
    assert finished.summary["included_clients"] == [[0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]
    assert finished.summary["dropped"] == [{"MaskedInputCollection": 1}, {"MaskedInputCollection": 1}, {}]
    assert [client.participant.rounds for client in clients] == [3, 3, 3, 1]
    assert sum("not in this round" in line for line in clients[3].said) >= 1


def test_a_client_that_misses_the_last_round_is_told_that_it_was_the_last(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.network.aggregator.GOODBYE_SECONDS", 8.0)
    config = deployment.config(rounds=1)
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in (0, 1, 2)]))
        clients.append(deployment.client(3, config, make=Slow))
        clients[3].start()

    deadlines = Deadlines(advertise_keys=3, share_keys=5, masked_input_collection=4, unmasking=5)
    finished = deployment.run_beside(config, beside, options=deployment.options(deadlines=deadlines))
    for client in clients:
        client.finish()
    assert finished.summary["included_clients"] == [[0, 1, 2]]
    assert clients[3].said[-1] == "the training is over"


def test_too_few_clients_end_it_with_the_reason_and_the_checkpoint_as_it_was(deployment: Deployment) -> None:
    """Two of three come; then the same run continues with all."""
    config = deployment.config(rounds=1)
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in (0, 1)]))

    with pytest.raises(RoundFailedError, match=r"round 1 was not begun: 2 of 3 clients were there after 0\.6 s"):
        deployment.run_beside(config, beside, options=deployment.options(give_up=0.6))
    out = deployment.directory / "run"
    assert RunFolder(out).load_config() == (deployment.config(rounds=1, adversary="malicious").settled(), 0)
    clients.extend(start_all([deployment.client(2, config)]))
    finished = resume_serving(out, None, None, deployment.options(), deployment.console())
    for client in clients:
        client.finish()
    assert finished.summary["included_clients"] == [[0, 1, 2]]


def test_an_aborted_round_is_tried_again(deployment: Deployment) -> None:
    """Of three clients one dies: too few for a sum. The second try has enough."""
    config = deployment.config(rounds=1)
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in (0, 1)]))
        gone = deployment.client(3, config, make=Vanishing)
        gone.start()
        with pytest.raises(KeyError, match="gone"):
            gone.finish()
        until(lambda: any("no result" in line for line in clients[0].said))
        clients.extend(start_all([deployment.client(2, config)]))

    deadlines = Deadlines(advertise_keys=0.7, share_keys=5, masked_input_collection=1.0, unmasking=5)
    finished = deployment.run_beside(config, beside, options=deployment.options(deadlines=deadlines))
    for client in clients:
        client.finish()
    assert finished.summary["included_clients"] == [[0, 1, 2]]
    (said,) = (line for line in deployment.output if line.startswith("round 1 was aborted"))
    assert "in MaskedInputCollection" in said
    assert "needed 3, had 2" in said


def test_malicious_mode_is_the_default_and_takes_the_certificates_identities(deployment: Deployment) -> None:
    config = deployment.config(rounds=1)
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config, once=True) for i in range(CLIENTS)]))

    finished = deployment.run_beside(config, beside)
    for client in clients:
        client.finish()
    assert finished.summary["included"] == [CLIENTS]
    assert finished.summary["plan"]["adversary"] == "malicious"


def test_a_server_that_asks_for_less_than_malicious_mode_gets_nobody_by_default(deployment: Deployment) -> None:
    """No silent downgrade: a client that was not told to trust the server leaves; those that were take part."""
    config = deployment.config(rounds=1)
    clients: list[Client] = []

    policy = Policy(adversary=_CURIOUS)

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config, policy=policy) for i in (1, 2)]))
        careful = deployment.client(0, config)
        careful.start()
        with pytest.raises(NetworkError, match=r"the session is in honest-but-curious mode, but .* asks for malicious"):
            careful.finish()
        clients.extend(start_all([deployment.client(3, config, policy=policy)]))

    deadlines = Deadlines(advertise_keys=6, share_keys=5, masked_input_collection=5, unmasking=5)
    options = deployment.options(deadlines=deadlines)
    finished = deployment.run_beside(config, beside, options=options, adversary=_CURIOUS)
    for client in clients:
        client.finish()
    assert finished.summary["included_clients"] == [[1, 2, 3]]


def test_malicious_mode_needs_everybodys_certificates_on_both_sides(deployment: Deployment) -> None:
    config = deployment.config(rounds=1)
    alone = deployment.directory / "alone"
    alone.mkdir()
    for name in ("ca.pem", "client-0.pem", "client-0.key", "server.pem", "server.key"):
        shutil.copy(deployment.certs / name, alone)
    with pytest.raises(ConfigError, match=r"the certificates of all 4 clients, and .*alone has 1: copy all"):
        deployment.run_beside(config, deployment.listening.set, options=deployment.options(directory=alone))
    assert not (deployment.directory / "run").exists()
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in (1, 2)]))
        lonely = deployment.client(0, config, directory=alone)
        lonely.start()
        with pytest.raises(NetworkError, match=r"declined .* all 4 clients, and .*alone has 1: copy all"):
            lonely.finish()
        clients.extend(start_all([deployment.client(3, config)]))

    deployment.listening.clear()
    deadlines = Deadlines(advertise_keys=6, share_keys=5, masked_input_collection=5, unmasking=5)
    deployment.run_beside(config, beside, options=deployment.options(deadlines=deadlines))
    for client in clients:
        client.finish()


def test_three_clients_are_all_needed_since_they_ask_for_three_inputs(deployment: Deployment) -> None:
    config = tiny_config(clients=3, rounds=1)
    clients: list[Client] = []

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in range(3)]))

    finished = deployment.run_beside(config, beside)
    for client in clients:
        client.finish()
    assert finished.summary["included"] == [3]
    assert finished.summary["plan"]["threshold"] == 3


def test_without_tls_on_loopback(deployment: Deployment) -> None:
    config = deployment.config(rounds=2)
    clients: list[Client] = []
    trial = {"tls": PLAINTEXT, "identity_key": None, "directory": None, "policy": Policy(adversary=_CURIOUS)}

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config, **trial) for i in range(CLIENTS)]))

    options = deployment.options(tls=PLAINTEXT)
    finished = deployment.run_beside(config, beside, options=options, adversary=_CURIOUS)
    for client in clients:
        client.finish()
    assert finished.summary["included"] == [CLIENTS, CLIENTS]


def test_clients_that_do_not_agree_end_with_the_reason_and_the_others_train(deployment: Deployment) -> None:
    config = deployment.config(rounds=1)
    clients: list[Client] = []
    strangers = deployment.directory / "strangers"
    Authority.create(strangers).issue(client_ids=[0])
    declining: list[tuple[str, dict[str, Any]]] = [
        ("the sum could contain only 3 inputs, but this client asks for 4", {"policy": Policy(min_inputs=4)}),
        ("an announcement of .* bytes, but this client takes 100", {"max_model_bytes": 100}),
        ("an authority that is not trusted here", {"tls": Credentials.of_client(strangers, 0)}),
        ("client 1's certificate, not client 0's", {"tls": Credentials.of_client(deployment.certs, 1)}),
    ]

    def beside() -> None:
        clients.extend(start_all([deployment.client(i, config) for i in (1, 2)]))
        for said, changes in declining:
            client = deployment.client(0, config, **changes)
            client.start()
            with pytest.raises((NetworkError, TransportError), match=said):
                client.finish()
        clients.extend(start_all([deployment.client(0, config)]))

    deadlines = Deadlines(advertise_keys=4, share_keys=5, masked_input_collection=5, unmasking=5)
    finished = deployment.run_beside(config, beside, options=deployment.options(deadlines=deadlines))
    for client in clients:
        client.finish()
    assert finished.summary["included"] == [3]


def test_a_journal_of_another_run_is_not_resumed(deployment: Deployment) -> None:
    """Its sum would be of another model's updates. A journal of a round in the checkpoint is out of date."""
    config = deployment.config(rounds=1)
    with pytest.raises(RoundFailedError, match="0 of 3 clients"):
        deployment.run_beside(config, lambda: None, options=deployment.options(give_up=0.1, retries=0))
    out = deployment.directory / "run"
    params = secagg.plan(num_clients=4, vector_length=3, value_bits=8).parameters
    path = out / "round.journal"

    def leave(number: int) -> None:
        journal = Journal(path)
        host = SessionHost(params, deadlines=Deadlines(), now=0.0, extra=b"x", number=number, journal=journal)
        host.commit(0.0)
        journal.close()

    leave(1)
    with pytest.raises(NetworkError, match="not a journal of a training"):
        resume_serving(out, None, None, deployment.options(), deployment.console())
    assert path.exists()
    path.unlink()
    leave(0)
    with pytest.raises(RoundFailedError):
        resume_serving(out, None, None, deployment.options(give_up=0.1), deployment.console())
    assert not path.exists()
