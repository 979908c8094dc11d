"""Rounds of aggregation alone: clients with updates, requests, and both aggregators side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fl.aggregation.api import PlainAggregator, RoundRequest, RoundResult
from fl.aggregation.encoding import Aggregate, ClientUpdate, UpdateEncoding
from fl.aggregation.planning import SessionPlans
from fl.aggregation.scales import ScaleTracker
from fl.aggregation.secure import SecureAggregator
from tests.fl.encodings import fixed_encoding
from transport import Fault, FaultSchedule

LENGTH, MAX_EXAMPLES, CLIP = 37, 50, 1.0
IDS = (3, 4, 17, 101, 5000, 4_000_000_000)
LEAVING = (Fault.VANISH, Fault.DISCONNECT)


def make_encoding(value_bits: int = 16, num_clients: int = len(IDS)) -> UpdateEncoding:
    return fixed_encoding(LENGTH, max_examples=MAX_EXAMPLES, clip=CLIP, value_bits=value_bits, num_clients=num_clients)


@dataclass
class Clients:
    """Clients with fixed updates, and a record of the clients that were asked."""

    asked: list[int] = field(default_factory=list)

    def update(self, client_id: int) -> ClientUpdate:
        rng = np.random.default_rng(client_id)
        examples = int(rng.integers(1, MAX_EXAMPLES, endpoint=True))
        return ClientUpdate(
            delta=rng.uniform(-CLIP, CLIP, LENGTH).astype(np.float32),
            num_examples=examples,
            loss_sum=float(rng.uniform(0, 3 * examples)),
            metrics=((int(rng.integers(0, examples, endpoint=True)), examples),),
        )

    def train(self, client_id: int) -> ClientUpdate:
        self.asked.append(client_id)
        return self.update(client_id)


def make_request(clients: Clients, faults: dict[Any, Fault] | None = None, **changes: Any) -> RoundRequest:
    values = {
        "client_ids": IDS,
        "train": clients.train,
        "context": b"model and round",
        "received_context": lambda client_id: b"model and round",
        "faults": FaultSchedule(faults or {}),
        "seed": 1,
    }
    return RoundRequest(**{**values, **changes})


def secure_aggregator(
    value_bits: int = 16,
    *,
    verify: bool = True,
    num_clients: int = len(IDS),
    clip: float | None = CLIP,
    max_examples: int | None = MAX_EXAMPLES,
    sizes: tuple[int, ...] = (LENGTH,),
    dropout: float = 0.0,
) -> SecureAggregator:
    """Return an aggregator with fixed bounds; None: with bounds that follow the updates, which are measured first."""
    return SecureAggregator(
        SessionPlans(sizes=sizes, value_bits=value_bits, dropout=dropout),
        num_clients=num_clients,
        tracker=ScaleTracker(len(sizes), value_bits, clip=clip, max_weight=max_examples),
        verify=verify,
    )


def run_both(faults: dict[Any, Fault] | None = None, value_bits: int = 16) -> tuple[RoundResult, RoundResult]:
    secure = secure_aggregator(value_bits).aggregate(make_request(Clients(), faults))
    return secure, PlainAggregator().aggregate(make_request(Clients(), faults))


def assert_close(secure: Aggregate | None, plain: Aggregate | None, value_bits: int, num_included: int) -> None:
    """Assert that means agree within the bound of the quantization (see test_quantization.py), and totals are equal."""
    assert secure is not None
    assert plain is not None
    step = 2 * CLIP / (2**value_bits - 1)
    bound = step * num_included * MAX_EXAMPLES / plain.num_examples + 1e-6
    np.testing.assert_array_less(np.abs(secure.mean_delta - plain.mean_delta), bound)
    assert secure.num_examples == plain.num_examples
    assert secure.accuracy == plain.accuracy
    assert secure.loss == pytest.approx(plain.loss, abs=num_included * 2**-17 / plain.num_examples + 1e-9)
