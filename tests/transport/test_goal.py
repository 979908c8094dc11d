"""A session with a goal continues when enough masked inputs are in; never with fewer than can be unmasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from secagg import Completed, DropReason, Parameters, Round
from tests.support.sessions import any_session, exact_sum, make_params
from tests.transport.link_world import CONTEXT, DEADLINES
from transport import ClientHost, Journal, RefusalCode
from transport.durable.server_host import SessionHost

NOW = 1.0


def session(params: Parameters, goal: int | None, journal: Journal | None = None) -> SessionHost:
    host = SessionHost(params, deadlines=DEADLINES, now=0.0, context=CONTEXT, nonce=b"n", journal=journal)
    host.goal = goal
    return host


def run(
    host: SessionHost,
    clients: dict[int, ClientHost],
    *,
    crash: Callable[[SessionHost], SessionHost] | None = None,
) -> SessionHost:
    """Deliver frames one at a time, as a server's loop does; no time passes. Return when no frame is left."""
    for client_id, client in clients.items():
        host.connected(client_id, NOW)
        host.frame_received(client_id, b"".join(client.connected()[0]), NOW)
    while outgoing := host.commit(NOW):
        for out in outgoing:
            for reply in clients[out.client_id].frame_received(b"".join(out.parts)):
                host.frame_received(out.client_id, b"".join(reply), NOW, out.connection)
                was = host.round
                host.tick(NOW)
                if crash is not None and was is Round.MASKED_INPUT_COLLECTION is not host.round:
                    host.commit(NOW)
                    return crash(host)
        if host.job is not None and host.outcome is None:
            host.finish(host.job.run(), NOW)
    return host


def cohort(params: Parameters) -> tuple[dict[int, ClientHost], dict[int, np.ndarray]]:
    inputs = {i: np.arange(params.vector_length) + 10 * i for i in range(params.num_clients)}
    clients = {
        i: ClientHost(i, lambda _, vector=vector: vector, accept=any_session, context=CONTEXT)  # type: ignore[misc]
        for i, vector in inputs.items()
    }
    return clients, inputs


@pytest.mark.parametrize(
    ("params", "goal", "included"),
    [
        (make_params(6, 3, vector_length=4), 4, 4),
        # With fewer than the threshold nothing can be unmasked.
        (make_params(6, 4, vector_length=4), 2, 4),
        (make_params(6, 3, vector_length=4), None, 6),
        (make_params(6, 3, vector_length=4), 6, 6),
        (make_params(8, 2, vector_length=4, degree=4), 6, 6),
    ],
    ids=["goal", "threshold", "none", "all", "sparse"],
)
def test_a_session_continues_at_its_goal_and_later_clients_are_told_so(
    params: Parameters, goal: int | None, included: int
) -> None:
    clients, inputs = cohort(params)
    host = run(session(params, goal), clients)
    assert isinstance(host.outcome, Completed)
    assert len(host.outcome.included) == included
    assert host.outcome.sum.tolist() == exact_sum(params, [inputs[i] for i in host.outcome.included])
    assert set(host.dropped) == set(clients) - set(host.outcome.included)
    for client_id, drop in host.dropped.items():
        assert (drop.reason, drop.round) == (DropReason.DEADLINE, Round.MASKED_INPUT_COLLECTION)
        error = clients[client_id].error
        assert getattr(error, "code", None) is RefusalCode.TOO_LATE


def test_a_server_that_dies_after_the_goal_continues_with_the_same_survivors(tmp_path: Path) -> None:
    params = make_params(5, 3, vector_length=4)
    clients, inputs = cohort(params)
    left: list[SessionHost] = []

    def resumed(host: SessionHost) -> SessionHost:
        left.append(host)
        journal.close()
        # Another goal does not matter any more: the round was closed, and clients may know of it.
        again = SessionHost.resume(Journal(tmp_path / "journal"), deadlines=DEADLINES, now=0.0, context=CONTEXT)
        again.goal = 5
        return again

    journal = Journal(tmp_path / "journal")
    host = run(session(params, 3, journal), clients, crash=resumed)
    assert host.client_ids == tuple(range(5))
    assert host.round is left[0].round is Round.UNMASKING
    assert host.dropped.keys() == left[0].dropped.keys()
    host = run(host, {i: client for i, client in clients.items() if i not in host.dropped})
    assert isinstance(host.outcome, Completed)
    assert len(host.outcome.included) == 3
    assert host.outcome.sum.tolist() == exact_sum(params, [inputs[i] for i in host.outcome.included])
