"""Inputs that are made in one process and computed in the clients' workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

import transport.workers
from tests.support.sessions import make_params
from transport import DeferredInput, InputWithheldError, WorkerPool, run_session

pytestmark = pytest.mark.live


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """Return two workers that take sessions of any size."""
    monkeypatch.setattr(transport.workers, "_WORTH_STARTING", 0.0)
    monkeypatch.setattr(transport.workers, "_WORTH_SENDING", 0.0)
    with WorkerPool(2) as workers:
        yield workers


class Deferred(DeferredInput):
    """An input that also records the process in which it is computed; a negative value is withheld."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.home = os.getpid()

    def __call__(self) -> np.ndarray:
        if self.values[0] < 0:
            raise InputWithheldError("nothing to send")
        return self.values + (100 if os.getpid() == self.home else 0)


def test_deferred_inputs_are_made_here_and_computed_in_the_workers(pool: WorkerPool) -> None:
    """Also large ones, whose arrays are sent without a copy; without workers they are computed here."""
    params = make_params(6, 4, vector_length=20_000)

    def make(client_id: int) -> DeferredInput:
        return Deferred(np.full(20_000, client_id if client_id != 3 else -1))

    for options, there in (({"pool": pool}, 0), ({}, 100)):
        report = run_session(params, make, **options)
        assert report.outcome.included == (0, 1, 2, 4, 5)
        assert set(report.outcome.sum.tolist()) == {12 + 5 * there}
        assert isinstance(report.clients[3].error, InputWithheldError)
        assert str(report.clients[3].error) == "nothing to send"


def test_an_error_of_a_deferred_input_is_raised_with_its_text(pool: WorkerPool) -> None:
    for options in ({"pool": pool}, {}):
        with pytest.raises((TypeError, RuntimeError), match="not subscriptable"):
            run_session(make_params(6, 4), lambda client_id: Deferred(None), **options)
