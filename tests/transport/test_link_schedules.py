"""Sessions over connections that break, with processes that crash: the sum is exact, or there is none."""

import pytest

from secagg import Aborted, AbortReason
from tests.transport.link_world import MODES, run_schedule

pytestmark = pytest.mark.slow

SCHEDULES = 61


@pytest.mark.parametrize("mode", MODES)
def test_any_faults_give_the_exact_sum_or_an_abort(mode: str) -> None:
    completed = crashes = 0
    for seed in range(SCHEDULES):
        outcome, crashed = run_schedule(mode, seed)
        crashes += crashed
        if isinstance(outcome, Aborted):
            assert outcome.reason in (AbortReason.TOO_FEW_CLIENTS, AbortReason.TOO_FEW_SHARES)
        else:
            completed += 1
    # A session that always aborts would be safe, and of no use.
    assert completed > SCHEDULES // 2
    assert crashes > SCHEDULES
