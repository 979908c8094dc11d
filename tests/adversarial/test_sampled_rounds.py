"""A server that samples a round again, to subtract one sum from the other: no client answers twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl.network import client as joining
from fl.network.policy import Policy
from fl.network.session_thread import SessionRequest, SessionThread
from secagg import Aborted, Adversary, Completed
from tests.fl.conftest import one_thread  # noqa: F401 - a fixture
from tests.fl.network.harness import Deployment
from tests.fl.network.sampled import Population
from transport import Deadlines, SessionHost
from transport.tcp import Retry

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.MALICIOUS], ids=lambda mode: mode.value)
def test_a_round_sampled_again_with_one_client_less_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adversary: Adversary
) -> None:
    """Round 2 has its sum of five; then four of these clients are asked for round 2 again, and later for round 3."""
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    deployment = Deployment(tmp_path, monkeypatch, 10)
    population, policy = Population(deployment, monkeypatch, sample=5, rounds=3), Policy(adversary=adversary)
    honest, lies = SessionThread.run, []

    def lying(thread: SessionThread, session: SessionRequest, observer: Any = None) -> SessionHost:
        host = honest(thread, session, observer)
        if session.number == 2 and isinstance(host.outcome, Completed):
            # All are there: only their records keep them from answering.
            thread.wait_for_clients(8, 20)
            fewer = host.client_ids[:-1]
            lie = replace(
                session,
                params=replace(session.params, num_clients=4, threshold=3, degree=3),
                client_ids=fewer,
                journal=None,
                goal=None,
                deadlines=Deadlines(advertise_keys=2, share_keys=2, masked_input_collection=2, unmasking=2),
            )
            lies.append(honest(thread, lie))
        return host

    monkeypatch.setattr(SessionThread, "run", lying)
    finished = population.serve(lambda: population.start(range(8), policy=policy), adversary=adversary, min_clients=4)
    (lie,) = lies
    assert isinstance(lie.outcome, Aborted)
    # None of them has even sent its masked input.
    assert lie.offer.nonce not in population.inputs
    assert finished.summary["included"] == [5, 5, 5]
    for host in population.hosts:
        if host is not lie:
            population.assert_exact(host, included=5)
