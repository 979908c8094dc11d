"""Private rounds whose client or server is killed with signal 9: each look at a client is charged, and none twice."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest

from fl.network import client as joining
from fl.network.policy import Policy
from fl.network.server import resume_serving
from fl.privacy.ledger import EpsilonSpentError
from fl.privacy.policy import PrivacyPolicy
from tests.fl.network import killed
from tests.fl.network.harness import _FORKED, Deployment
from tests.fl.network.test_network_private import Training
from transport import Deadlines
from transport.tcp import Retry

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live, pytest.mark.slow]

# The first process that is forked imports torch before.
PATIENCE = 120.0
LIMITS = PrivacyPolicy(max_epsilon=1000.0, delta=1e-3)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    return Deployment(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "moment", ["before the charge", "after the charge", "before the input is saved", "after the input is saved"]
)
def test_a_killed_client_goes_on_with_its_session_and_pays_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    training = Training(deployment, monkeypatch, rounds=2, epsilon=40.0)
    codes: list[int | None] = []

    def beside() -> None:
        for client_id in range(3):
            training.join(client_id, policy=Policy(privacy=LIMITS), give_up=PATIENCE)
        doomed = deployment.client(
            3, training.population.config, state=training.state(3), policy=Policy(privacy=LIMITS), give_up=PATIENCE
        )
        participant = doomed.participant
        process = _FORKED.Process(
            target=killed.join, args=(participant._options, participant._examples.all, moment), daemon=True
        )
        process.start()
        process.join(PATIENCE)
        codes.append(process.exitcode)
        training.join(3, policy=Policy(privacy=LIMITS))

    finished = training.serve(beside, min_clients=4, options={"give_up": PATIENCE})
    assert codes == [-signal.SIGKILL]
    # All four must be in the sum: the client came back to the same session.
    assert finished.summary["included"] == [4, 4]
    assert len(training.hosts) == 2
    assert training.said(3, "round 1/2: going on where this client was")
    assert [charge.round for charge in training.own_ledger(3).charges] == [1, 2]
    assert training.own_ledger(3).spent == pytest.approx(training.ledger.spent, rel=1e-9)


@pytest.mark.parametrize(
    ("moment", "charged"),
    [
        ("before the charge", [1, 2]),
        # Nothing had left yet, but the ledger cannot know that.
        ("after the charge", [1, 1, 2]),
        ("before the sum", [1, 2]),
        ("after the sum", [1, 2]),
        ("before the checkpoint", [1, 2]),
        ("after the checkpoint", [1, 2]),
    ],
)
def test_a_killed_server_goes_on_with_its_ledger(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, moment: str, charged: list[int]
) -> None:
    # A charge for nothing takes the place of the last round.
    training = Training(deployment, monkeypatch, rounds=len(charged), epsilon=60.0)
    deadlines = Deadlines(advertise_keys=20, share_keys=30, masked_input_collection=30, unmasking=30)
    options = deployment.options(address=("127.0.0.1", 0), deadlines=deadlines, give_up=PATIENCE)
    config = training.population.config
    config = config.of(**config.options() | {"adversary": "malicious"})
    ours, theirs = multiprocessing.Pipe()
    process = _FORKED.Process(target=killed.serve, args=(training.run, options, config, moment, theirs), daemon=True)
    process.start()
    assert ours.poll(PATIENCE)
    deployment.port = ours.recv()
    for client_id in range(4):
        training.join(client_id, policy=Policy(privacy=LIMITS))
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    before = [charge.round for charge in training.ledger.charges]
    assert before == ([] if moment == "before the charge" else [1])
    resumed: dict[str, Any] = {"address": ("127.0.0.1", deployment.port), "deadlines": deadlines, "give_up": PATIENCE}
    if charged == [1, 1, 2]:
        with pytest.raises(EpsilonSpentError, match="round 3"):
            resume_serving(training.run, None, None, deployment.options(**resumed), deployment.console())
    else:
        finished = resume_serving(training.run, None, None, deployment.options(**resumed), deployment.console())
        assert finished.summary["included"] == [4, 4]
    for client in training.population.clients.values():
        client.finish(60)
    assert [charge.round for charge in training.ledger.charges] == charged
    for client_id in range(4):
        assert [charge.round for charge in training.own_ledger(client_id).charges] == [1, 2]
