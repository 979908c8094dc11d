"""Sums that no clients' inputs can add up to: an error at each decoding, a round without result, and no NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fl.aggregation.secure
import fl.aggregation.totals_session
from fl.aggregation.encoding import ClientUpdate, UndecodableSumError, UpdateEncoding
from fl.aggregation.held_out import FederatedEvaluation
from fl.aggregation.planning import SessionPlans
from fl.aggregation.scales import MAX_WEIGHT
from fl.errors import FLError
from fl.learning.figures import LOSS_STEPS, MAX_LOSS, MOST_PER_EXAMPLE
from fl.learning.server_optimizer import ServerOptimizer
from fl.learning.training import Evaluation
from fl.runs.rounds import FederatedRun
from tests.fl.aggregations import Clients, make_request, run_both, secure_aggregator
from tests.fl.encodings import fixed_encoding
from tests.fl.runs import state_bytes, tiny_config, tiny_dataset, untimed
from transport import FaultSchedule, run_session
from transport.inputs import computed

LENGTH, MOST, BITS, CLIENTS = 4, 10, 16, 3
ENCODING = fixed_encoding(LENGTH, max_examples=MOST, value_bits=BITS, num_clients=CLIENTS)


def total(examples: int = 30, correct: int = 5, loss: float = 30.0, clipped: int = 2, element: int = 0) -> Any:
    """Return a sum with these totals, and this value in the place of each element."""
    answers = MAX_WEIGHT * MOST_PER_EXAMPLE
    most = (MAX_WEIGHT, answers, answers, MAX_WEIGHT * MAX_LOSS * LOSS_STEPS, LENGTH)
    digits = []
    for counter, largest in zip((examples, correct, examples, round(loss * LOSS_STEPS), clipped), most, strict=True):
        # As many as one client needs; the last holds what is carried.
        places = -(-largest.bit_length() // BITS)
        digits += [counter >> BITS * place & (1 << BITS) - 1 for place in range(places - 1)]
        digits.append(counter >> BITS * (places - 1))
    return np.array([element] * LENGTH + ranges_of(CLIENTS) + digits, dtype=np.uint64)


def ranges_of(clients: int, encoding: UpdateEncoding = ENCODING) -> list[int]:
    """Return the sum of the ranges' digits of ``clients`` clients, which all are at the bounds."""
    digits = encoding._ranges.encode(np.array([encoding.scales.bounds[0]]), encoding.scales.max_weight)
    return (digits * clients).tolist()


def test_totals_on_the_bounds_are_decoded() -> None:
    for bounds in (
        {"examples": 30, "correct": 30, "loss": 30.0 * MAX_LOSS, "clipped": 12, "element": CLIENTS * (2**BITS - 1)},
        {"examples": 3, "correct": 0, "loss": 0.0, "clipped": 0, "element": 0},
    ):
        aggregate = ENCODING.decode(total(**bounds), CLIENTS)
        assert aggregate.num_examples == bounds["examples"]
        assert aggregate.accuracy == bounds["correct"] / bounds["examples"]
        assert aggregate.loss == bounds["loss"] / bounds["examples"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"examples": 0}, "0 examples"),
        ({"examples": 2}, "2 examples"),
        ({"examples": 31}, "31 examples"),
        ({"examples": 30, "correct": 31}, "accuracy 31 over 30"),
        ({"examples": 3, "correct": 0, "loss": 3.0 * MAX_LOSS + 1}, "loss 769 over 3"),
        ({"clipped": 13}, "13 clipped elements"),
        ({"element": CLIENTS * (2**BITS - 1) + 1}, "an element of 196606"),
    ],
)
def test_totals_beyond_them_are_one_error(values: dict[str, Any], said: str) -> None:
    with pytest.raises(
        UndecodableSumError, match=f"3 clients' inputs cannot add up to {said}: a client sent"
    ) as caught:
        ENCODING.decode(total(**values), CLIENTS)
    assert isinstance(caught.value, FLError)


@given(st.lists(st.integers(0, 2**18 - 1), min_size=ENCODING.vector_length, max_size=ENCODING.vector_length))
def test_any_sum_is_finite_numbers_or_that_error(elements: list[int]) -> None:
    try:
        aggregate = ENCODING.decode(np.array(elements, dtype=np.uint64), CLIENTS)
    except UndecodableSumError:
        return
    assert np.isfinite(aggregate.mean_delta).all()
    assert 0 <= aggregate.accuracy <= 1 or np.isnan(aggregate.accuracy)
    assert 0 <= aggregate.loss <= MAX_LOSS
    assert 0 <= aggregate.clipped <= 1


def test_an_element_beyond_what_the_examples_allow_is_that_error() -> None:
    """A client that subtracts from the others' examples would make the mean larger than any update."""
    encoding = fixed_encoding(1, max_examples=1 << 32, clip=1e20, value_bits=4)
    update = ClientUpdate(np.array([1e20], np.float32), 1 << 32, 0.0, ((0, 1 << 32),))
    vector = encoding.encode(update, np.random.default_rng(0)).astype(np.uint64)
    assert encoding.decode(vector, 1).mean_delta[0] == np.float32(1e20)
    counters = 1 + len(ranges_of(1, encoding))
    vector[counters:] = 0
    vector[counters] = 1
    with pytest.raises(UndecodableSumError, match="of 1 examples, cannot add up to an element of 15"):
        encoding.decode(vector, 1)


def poisoning(digit: int) -> Callable[..., Any]:
    """Return a `run_session` with a client that puts the maximum into one digit of the counters, from the end."""

    def run(params: Any, make_input: Callable[[int], Any], **options: Any) -> Any:
        liar = options["client_ids"][0]

        def spoilt(client_id: int) -> Any:
            vector = make_input(client_id)
            if client_id == liar:
                vector = computed(vector).copy()
                vector[digit] = (1 << params.value_bits) - 1
            return vector

        return run_session(params, spoilt, **options)

    return run


def test_a_simulated_round_has_no_result_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, _ = run_both()
    assert honest.aggregate is not None
    # The highest of the correct predictions; five digits of all answers, four of the loss, and one of the clipped
    # elements follow.
    monkeypatch.setattr(fl.aggregation.secure, "run_session", poisoning(-11))
    spoilt = secure_aggregator(verify=False).aggregate(make_request(Clients()))
    assert (spoilt.aggregate, spoilt.included) == (None, ())
    assert "cannot add up to accuracy" in str(spoilt.aborted)


def test_a_training_continues_after_a_round_without_result(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FederatedRun(tiny_config(), tiny_dataset(), "secure")
    run.run_round()
    before = state_bytes(run.model)
    with monkeypatch.context() as patch:
        patch.setattr(fl.aggregation.secure, "run_session", poisoning(-1))
        spoilt = run.run_round()
    assert "clipped elements" in str(spoilt.aborted)
    assert (spoilt.included, spoilt.num_examples, spoilt.train_loss) == ((), 0, None)
    assert state_bytes(run.model) == before
    good = run.run_round()
    assert (good.round, good.aborted) == (3, None)
    assert len(good.included) == 6
    assert state_bytes(run.model) != before


def test_impossible_held_out_totals_are_not_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    run = FederatedRun(tiny_config(holdout=0.25), tiny_dataset(), "secure")
    with monkeypatch.context() as patch:
        patch.setattr(fl.aggregation.totals_session, "run_session", poisoning(0))
        spoilt = run.run_round()
    assert spoilt.aborted is None
    assert spoilt.held_out_accuracy is spoilt.held_out_loss is None
    assert spoilt.held_out_examples == 0
    assert "inputs cannot add up to" in str(spoilt.held_out_aborted)
    good = run.run_round()
    assert (good.held_out_aborted, good.held_out_examples) == (None, 60)


def test_a_session_without_held_out_examples_is_valid() -> None:
    session = FederatedEvaluation(SessionPlans(sizes=(1,), value_bits=16), num_clients=3, max_examples=5)
    measured: list[Evaluation | None] = [None, None, None]
    result = session.run(
        (0, 1, 2), lambda i: measured[i], context=b"c", received_context=lambda _: b"c", faults=FaultSchedule(), seed=0
    )
    assert (result.evaluation, result.included, result.aborted) == (None, 3, None)


@pytest.mark.parametrize("rule", ["fedavg", "fedavgm", "fedadam"])
def test_a_step_that_makes_the_model_infinite_is_not_a_result(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and optimizer are as if the round had not been: the next one equals that of a run without it."""
    run, other = (FederatedRun(tiny_config(server_optimizer=rule, rounds=3), tiny_dataset(), "plain") for _ in range(2))
    run.run_round()
    other.run_round()
    before, step = state_bytes(run.model), ServerOptimizer.step
    with monkeypatch.context() as patch:
        patch.setattr(
            ServerOptimizer,
            "step",
            lambda self, vector, delta: step(self, vector, np.full_like(delta, np.inf)),
        )
        spoilt = run.run_round()
    assert "not finite" in str(spoilt.aborted)
    assert spoilt.included == ()
    assert spoilt.train_loss is None
    assert state_bytes(run.model) == before
    other.rounds_done = 2
    assert untimed(run.run_round()) == untimed(other.run_round())
    assert state_bytes(run.model) == state_bytes(other.model) != before
