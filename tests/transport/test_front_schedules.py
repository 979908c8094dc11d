"""Sessions over fronts that are killed, cut off and slow, with a coordinator that crashes: the exact sum, or none."""

import logging

import pytest

from secagg import Aborted, AbortReason
from tests.transport.fronts_world import FrontedWorld
from tests.transport.link_world import MODES, run_schedule

pytestmark = pytest.mark.slow

SCHEDULES = 20


@pytest.mark.parametrize("mode", MODES)
def test_any_faults_of_fronts_give_the_exact_sum_or_an_abort(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "transport.fronts")
    completed = crashes = 0
    for seed in range(SCHEDULES):
        outcome, crashed = run_schedule(mode, seed, 0.12, FrontedWorld)
        crashes += crashed
        if isinstance(outcome, Aborted):
            assert outcome.reason in (AbortReason.TOO_FEW_CLIENTS, AbortReason.TOO_FEW_SHARES)
        else:
            completed += 1
    # A session that always aborts would be safe, and of no use.
    assert completed > SCHEDULES // 2
    assert crashes > SCHEDULES // 2
    assert "front_lost" in {record.__dict__["event"] for record in caplog.records}
