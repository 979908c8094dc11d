"""A server process that is killed with signal 9 at any point of a session and restarted: the sum is exact."""

import asyncio
from collections import Counter

import pytest

from tests.transport.kill_matrix import matrix, run_matrix

pytestmark = pytest.mark.live


@pytest.mark.parametrize("storage", ["file", "postgresql"])
def test_a_server_that_is_killed_at_any_point_ends_with_the_exact_sum(storage, capsys, request):
    runs = matrix()
    assert len(runs) >= 30
    kinds = Counter(run.point for run in runs)
    database = request.getfixturevalue("postgres").url() if storage == "postgresql" else None
    outcomes = asyncio.run(run_matrix(runs, database))
    with capsys.disabled():
        points = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"\n{storage}, {len(runs)} kill points ({points}): ", end="")  # noqa: T201
        print(", ".join(f"{n} {outcome}" for outcome, n in outcomes.items()), "and 0 wrong")  # noqa: T201
    # Deadlines are long and all clients come back: no kill costs a client the session.
    assert outcomes["exact"] + outcomes["over before the kill"] == len(runs)
    assert outcomes["exact"] >= 30
