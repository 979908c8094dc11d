"""Rounds that measure first, through the protocol: each client trains once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl.aggregation.encoding import (
    ClientUpdate,
)
from secagg import Round
from tests.fl.aggregations import Clients, make_request, secure_aggregator
from tests.fl.encodings import mean_of, worst_error
from transport import Direction, Fault, FaultSchedule


@pytest.mark.parametrize("amplitude", [1.0, 1e-5])
def test_a_simulated_round_measures_first_and_trains_each_client_once(amplitude: float) -> None:
    clients = Clients()

    def train(client_id: int) -> ClientUpdate:
        update = clients.train(client_id)
        return replace(update, delta=(update.delta * amplitude).astype(np.float32))

    aggregator = secure_aggregator(24, clip=None, max_examples=None)
    request = make_request(clients, train=train)
    first = aggregator.aggregate(request)
    assert first.aborted is None
    assert first.ring_difference == 0
    assert sorted(clients.asked) == sorted(request.client_ids)
    updates = [train(client_id) for client_id in request.client_ids]
    assert first.aggregate is not None
    assert worst_error(first.aggregate.mean_delta, mean_of(updates), (37,)) < 1e-4
    assert first.aggregate.num_examples == sum(update.num_examples for update in updates)
    assert first.exceeded == (None, None)
    second = aggregator.aggregate(request)
    assert second.ring_difference == 0
    # The measuring session's costs are in the first round's figures.
    assert first.bytes_up > second.bytes_up
    assert {name: cost.bytes_up for name, cost in first.phases.items()}.keys() == second.phases.keys()
    assert sum(cost.bytes_up for cost in first.phases.values()) == first.bytes_up


def test_some_clients_are_measured_where_there_are_many() -> None:
    """They have their share of the faults; all of them are trained once, and the others in the round itself."""
    ids = tuple(range(60))
    clients, announced = Clients(), []
    faults = FaultSchedule.dropouts(ids, 0.3, seed=4)
    aggregator = secure_aggregator(24, num_clients=60, clip=None, max_examples=None, dropout=0.3)
    request = make_request(clients, client_ids=ids, announce=lambda client_id, due: announced.append(client_id))
    result = aggregator.aggregate(replace(request, faults=faults))
    assert result.aborted is None
    assert len(clients.asked) == len(set(clients.asked))
    assert set(result.included) <= set(clients.asked)
    # A client that was trained before is not announced.
    assert len(announced) == len(set(announced))


def test_few_are_measured_where_updates_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl.aggregation.secure._MOST_KEPT_BYTES", 37 * 4 * 2)
    measured: list[int] = []
    aggregator = secure_aggregator(24, clip=None, max_examples=None)
    session = aggregator._session

    def noted(request: Any, *arguments: Any) -> Any:
        measured.append(len(request.client_ids))
        return session(request, *arguments)

    monkeypatch.setattr(aggregator, "_session", noted)
    assert aggregator.aggregate(make_request(Clients())).aborted is None
    assert measured == [3, 6]


def test_a_measuring_session_that_aborts_aborts_the_round_and_the_next_one_measures_again() -> None:
    aggregator = secure_aggregator(24, clip=None, max_examples=None)
    request = make_request(Clients())
    faults = FaultSchedule({(i, Round.UNMASKING, Direction.UP): Fault.VANISH for i in request.client_ids[:4]})
    spoilt = aggregator.aggregate(replace(request, faults=faults))
    assert spoilt.aggregate is None
    assert str(spoilt.aborted).startswith("the session that measures the updates' ranges failed: aborted")
    assert spoilt.bytes_up > 0
    good = aggregator.aggregate(request)
    assert good.aggregate is not None
