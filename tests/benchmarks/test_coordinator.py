"""The benchmark of the coordinator runs a whole session, and its stub clients' sum is exact."""

from __future__ import annotations

import pytest

from benchmarks import coordinator
from secagg import MaskSum
from transport import SessionHost


@pytest.mark.live
@pytest.mark.parametrize("with_journal", [True, False])
def test_a_small_session_is_measured_round_by_round(with_journal: bool) -> None:
    result = coordinator.measure(300, with_journal)
    names = [round_["name"] for round_ in result["rounds"]]
    assert names == ["connections", *(round_.value for round_ in coordinator._ROUNDS), "masks"]
    assert (result["journal_bytes"] > 0) is with_journal
    assert coordinator.table({"results": [result]}).count("\n") == 2


@pytest.mark.live
def test_a_wrong_sum_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub compares what it is told with what its clients put in."""
    add = SessionHost.finish

    def one_more(host: SessionHost, masks: MaskSum, now: float) -> None:
        masks.vector[0] += 1
        add(host, masks, now)

    monkeypatch.setattr(SessionHost, "finish", one_more)
    with pytest.raises(AssertionError, match="not exact"):
        coordinator.measure(300)
