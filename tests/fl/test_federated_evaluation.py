"""Totals over held-out examples: of clients without any, of models that ran away, of sessions too small."""

from __future__ import annotations

from math import inf, nan

import pytest

from fl.aggregation.held_out import FederatedEvaluation, HeldOutResult
from fl.aggregation.planning import SessionPlans
from fl.learning.figures import MAX_LOSS
from fl.learning.training import Evaluation
from secagg import Round
from transport import Direction, Fault, FaultSchedule

CONTEXT = b"\x01" * 32


def totals(measured: list[Evaluation | None], faults: FaultSchedule | None = None) -> HeldOutResult:
    session = FederatedEvaluation(
        SessionPlans(sizes=(1,), value_bits=16, dropout=0.25), num_clients=len(measured), max_examples=50
    )
    return session.run(
        tuple(range(len(measured))),
        lambda client_id: measured[client_id],
        context=CONTEXT,
        received_context=lambda _: CONTEXT,
        faults=faults or FaultSchedule(),
        seed=4,
    )


def test_means_are_over_examples_and_a_client_that_holds_nothing_out_is_in_the_session() -> None:
    one, other = Evaluation(0.5, {"accuracy": (30, 40)}, 40), Evaluation(2.0, {"accuracy": (5, 10)}, 10)
    result = totals([one, None, other, None])
    assert result.included == 4
    assert result.evaluation == Evaluation(pytest.approx(0.8, abs=1e-4), {"accuracy": (35, 50)}, 50)


def test_without_held_out_examples_there_is_no_mean() -> None:
    assert totals([None] * 4) == HeldOutResult(evaluation=None, included=4)


@pytest.mark.parametrize("loss", [inf, nan, 1e300])
def test_a_loss_that_ran_away_counts_as_the_largest_of_its_own_examples(loss: float) -> None:
    result = totals([Evaluation(loss, {"accuracy": (0, 1)}, 1), Evaluation(1.0, {"accuracy": (3, 3)}, 3), None, None])
    assert result.evaluation is not None
    assert result.evaluation.loss == pytest.approx((MAX_LOSS + 3) / 4, rel=1e-4)
    assert result.evaluation.accuracy == 0.75


def test_an_aborted_session_gives_nothing() -> None:
    measured: list[Evaluation | None] = [Evaluation(1.0, {"accuracy": (3, 3)}, 3)] * 4
    vanished = {(client_id, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH for client_id in (0, 1, 2)}
    result = totals(measured, FaultSchedule(vanished))
    assert (result.evaluation, result.included) == (None, 0)
    assert str(result.aborted).startswith("aborted in MaskedInputCollection: fewer clients than the threshold")
