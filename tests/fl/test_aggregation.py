"""The secure aggregator gives the plain one's result, of the same clients, or only the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

import secagg
import transport.clients
import transport.memory
from fl.aggregation import secure as secure_aggregation
from fl.aggregation.api import PlainAggregator
from fl.aggregation.encoding import ClientUpdate
from fl.aggregation.planning import SessionPlans
from fl.aggregation.secure import SecureAggregator
from fl.learning.training import DivergedError
from secagg import CodecError, PlanError, Round
from tests.fl.aggregations import (
    CLIP,
    IDS,
    LEAVING,
    LENGTH,
    MAX_EXAMPLES,
    Clients,
    assert_close,
    make_encoding,
    make_request,
    run_both,
    secure_aggregator,
)
from transport import Direction, Fault, FaultSchedule, SessionReport, encode_frame, run_session
from transport.faults import ROUNDS_OF_EVERY_SESSION

UP = Direction.UP


@pytest.mark.parametrize("value_bits", [4, 16, 24, 32])
def test_the_secure_mean_is_the_plain_mean(value_bits: int) -> None:
    secure, plain = run_both(value_bits=value_bits)
    assert secure.included == plain.included == IDS
    assert secure.ring_difference == 0
    assert secure.aborted is plain.aborted is None
    assert secure.dropped == plain.dropped == {}
    assert_close(secure.aggregate, plain.aggregate, value_bits, len(IDS))


def test_the_plain_mean_is_weighted_by_examples() -> None:
    result = PlainAggregator().aggregate(make_request(Clients()))
    updates = [Clients().update(client_id) for client_id in IDS]
    weights = [update.num_examples for update in updates]
    expected = np.average(np.stack([update.delta for update in updates]).astype(np.float64), axis=0, weights=weights)
    assert result.aggregate is not None
    np.testing.assert_allclose(result.aggregate.mean_delta, expected, atol=1e-7)
    assert result.aggregate.num_examples == sum(weights)
    assert result.aggregate.loss == pytest.approx(sum(update.loss_sum for update in updates) / sum(weights))
    assert result.aggregate.accuracy == sum(update.metrics[0][0] for update in updates) / sum(weights)
    assert np.isnan(result.aggregate.clipped)


@pytest.mark.parametrize("kind", LEAVING)
@pytest.mark.parametrize("round_", ROUNDS_OF_EVERY_SESSION)
def test_both_include_the_same_clients_wherever_one_leaves(round_: Round, kind: Fault) -> None:
    gone = IDS[2]
    secure, plain = run_both({(gone, round_, UP): kind}, value_bits=24)
    stayed = IDS if round_ is Round.UNMASKING else tuple(i for i in IDS if i != gone)
    assert secure.included == plain.included == stayed
    assert secure.dropped == {gone: round_}
    assert plain.dropped == ({} if round_ is Round.UNMASKING else {gone: round_})
    assert secure.ring_difference == 0
    assert_close(secure.aggregate, plain.aggregate, 24, len(stayed))


def test_both_include_the_same_clients_under_dropouts_everywhere() -> None:
    ids = tuple(range(20))
    for seed in range(8):
        faults = FaultSchedule.dropouts(ids, 0.45, seed=seed)
        request = replace(make_request(Clients(), client_ids=ids, seed=seed), faults=faults)
        secure = secure_aggregator(24, num_clients=20).aggregate(request)
        plain = PlainAggregator().aggregate(request)
        assert len(secure.dropped) == 9
        assert secure.included == plain.included
        assert secure.ring_difference == 0
        assert_close(secure.aggregate, plain.aggregate, 24, len(plain.included))


@pytest.mark.parametrize("aggregator", [secure_aggregator(), PlainAggregator()], ids=lambda aggregator: aggregator.name)
def test_a_client_trains_once_and_only_if_it_reaches_the_input_round(
    aggregator: SecureAggregator | PlainAggregator,
) -> None:
    clients = Clients()
    aggregator.aggregate(
        make_request(
            clients,
            {
                (IDS[0], Round.ADVERTISE_KEYS, UP): Fault.VANISH,
                (IDS[1], Round.SHARE_KEYS, UP): Fault.VANISH,
                (IDS[5], Round.UNMASKING, UP): Fault.VANISH,
            },
        )
    )
    assert sorted(clients.asked) == sorted(IDS[2:])


def test_keys_and_masks_do_not_change_the_result_but_the_seed_does() -> None:
    first, again, other = (
        secure_aggregator().aggregate(make_request(Clients(), seed=seed)).aggregate for seed in (1, 1, 2)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.mean_delta.tobytes() == again.mean_delta.tobytes()
    assert first.mean_delta.tobytes() != other.mean_delta.tobytes()


def test_each_client_rounds_by_its_own_draws() -> None:
    """Errors of rounding cancel out among 24 clients with the same update; the same draws would keep them."""
    clients = Clients()
    same = replace(clients.update(7), num_examples=MAX_EXAMPLES)
    request = make_request(clients, client_ids=tuple(range(24)), train=lambda client_id: same)
    aggregate = secure_aggregator(4, num_clients=24).aggregate(request).aggregate
    assert aggregate is not None
    step = 2 * CLIP / 15
    # One draw is off by 0.4 steps, the mean of 24 by 0.08.
    assert np.sqrt(np.mean((aggregate.mean_delta - same.delta) ** 2)) < 0.16 * step


def tampered(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], None]) -> None:
    """Make sessions give a wrong sum."""

    def run(*args: Any, **options: Any) -> SessionReport:
        report = run_session(*args, **options)
        assert isinstance(report.outcome, secagg.Completed)
        total = report.outcome.sum.copy()
        change(total)
        return replace(report, outcome=replace(report.outcome, sum=total))

    monkeypatch.setattr(secure_aggregation, "run_session", run)


@pytest.mark.parametrize("at", [0, LENGTH // 2, LENGTH - 1, -1])
@pytest.mark.parametrize(("offset", "difference"), [(1, 1), (5, 5), (-7, 7)])
def test_a_wrong_sum_shows_in_the_ring(at: int, offset: int, difference: int, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregator = secure_aggregator()
    mask = aggregator.plan.parameters.modulus - 1

    def change(total: np.ndarray) -> None:
        total[at] = (int(total[at]) + offset) & mask

    tampered(monkeypatch, change)
    assert aggregator.aggregate(make_request(Clients())).ring_difference == difference


def test_the_difference_goes_round_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sums can differ at most by half of the ring."""
    aggregator = secure_aggregator()
    modulus = aggregator.plan.parameters.modulus

    def change(total: np.ndarray) -> None:
        total[:] = (total.astype(np.int64) + modulus // 2 + 3) % modulus

    tampered(monkeypatch, change)
    assert aggregator.aggregate(make_request(Clients())).ring_difference == modulus // 2 - 3


def test_sums_are_compared_only_on_request() -> None:
    aggregator = secure_aggregator(verify=False)
    assert aggregator.aggregate(make_request(Clients())).ring_difference is None
    assert PlainAggregator().aggregate(make_request(Clients())).ring_difference is None


@pytest.mark.parametrize("round_", ROUNDS_OF_EVERY_SESSION)
def test_too_many_dropouts_give_no_aggregate_but_the_reason(round_: Round) -> None:
    """The threshold of 6 clients is 4: three of them are too few, in whichever round the others left."""
    result = secure_aggregator().aggregate(
        make_request(Clients(), {(client_id, round_, UP): Fault.VANISH for client_id in IDS[:3]})
    )
    assert result.aggregate is None
    assert result.included == ()
    assert result.ring_difference is None
    assert result.aborted is not None
    assert round_.value in result.aborted
    assert "needed 4" in result.aborted
    assert "had 3" in result.aborted
    assert dict.fromkeys(IDS[:3], round_).items() <= result.dropped.items()
    assert result.bytes_up > 0


def test_at_the_threshold_there_is_an_aggregate() -> None:
    secure, plain = run_both({(client_id, Round.SHARE_KEYS, UP): Fault.VANISH for client_id in IDS[:2]})
    assert secure.included == IDS[2:]
    assert_close(secure.aggregate, plain.aggregate, 16, 4)


def test_without_any_update_the_plain_aggregator_says_so() -> None:
    faults = {(client_id, Round.ADVERTISE_KEYS, UP): Fault.VANISH for client_id in IDS}
    clients = Clients()
    result = PlainAggregator().aggregate(make_request(clients, faults))
    assert result.aggregate is None
    assert result.included == ()
    assert result.aborted
    assert set(result.dropped) == set(IDS)
    assert clients.asked == []


def test_a_client_that_received_another_model_is_left_out() -> None:
    """Its session is another one: it can neither agree on masks with the others nor be unmasked."""
    other = IDS[1]
    clients = Clients()
    request = make_request(clients, received_context=lambda i: b"another model" if i == other else b"model and round")
    result = secure_aggregator().aggregate(request)
    assert result.included == tuple(i for i in IDS if i != other)
    assert other in result.dropped
    assert other not in clients.asked
    assert result.ring_difference == 0


def test_a_server_that_gives_each_client_a_different_model_learns_nothing() -> None:
    """Pasquini et al. (CCS 2022): no client trains, and nothing is summed."""
    clients = Clients()
    result = secure_aggregator().aggregate(make_request(clients, received_context=lambda i: b"for %d" % i))
    assert result.aggregate is None
    assert result.aborted is not None
    assert clients.asked == []


def test_infeasible_dropouts_are_refused_before_the_round() -> None:
    with pytest.raises(PlanError) as refused:
        SessionPlans(sizes=(LENGTH,), value_bits=16, dropout=0.6, corrupt=0.5).plan(10)
    dropouts = [reason for reason in refused.value.reasons if "6 of 10 clients are expected to vanish" in reason]
    assert len(dropouts) == 1
    assert "3 fewer than the threshold 7" in dropouts[0]
    assert any("5 corrupt clients" in reason for reason in refused.value.reasons)


def test_the_plan_is_of_the_encoded_vector() -> None:
    encoding = make_encoding(20, num_clients=10)
    plans = SessionPlans(sizes=encoding.sizes, value_bits=20, dropout=0.3, corrupt=0.1)
    assert plans.encoding(10, encoding.scales) == encoding
    params = plans.parameters(encoding)
    assert (params.vector_length, params.value_bits) == (encoding.vector_length, 20)
    assert params.modulus > 10 * (2**20 - 1)
    assert params.threshold == 7


def _spoiled(update: ClientUpdate) -> ClientUpdate:
    update.delta[5] = np.nan
    return update


def _diverged(update: ClientUpdate) -> ClientUpdate:
    raise DivergedError("the loss is nan")


@pytest.mark.parametrize(("spoil", "said"), [(_spoiled, "not finite"), (_diverged, "the loss is nan")])
@pytest.mark.parametrize("aggregator", [secure_aggregator, PlainAggregator])
def test_a_client_whose_update_may_not_be_sent_leaves_and_the_round_continues(
    aggregator: Callable[[], Any], spoil: Callable[[ClientUpdate], ClientUpdate], said: str
) -> None:
    clients = Clients()

    def train(client_id: int) -> ClientUpdate:
        update = clients.train(client_id)
        return spoil(update) if client_id == IDS[3] else update

    result = aggregator().aggregate(make_request(clients, train=train))
    others = tuple(client_id for client_id in IDS if client_id != IDS[3])
    assert result.included == others
    assert result.dropped == {IDS[3]: Round.MASKED_INPUT_COLLECTION}
    assert result.refused.keys() == {IDS[3]}
    assert said in result.refused[IDS[3]]
    expected = PlainAggregator().aggregate(make_request(Clients(), client_ids=others)).aggregate
    assert_close(result.aggregate, expected, 16, len(others))


def test_the_bytes_are_those_of_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sent frame is recorded, and its content shows whether it is a client's or the server's."""
    frames: list[bytes] = []

    def note(message: bytes) -> bytes:
        frames.append(encode_frame(message))
        return frames[-1]

    for module in (transport.clients, transport.memory):
        monkeypatch.setattr(module, "encode_frame", note)
    aggregator = secure_aggregator()
    result = aggregator.aggregate(make_request(Clients()))
    up = down = 0
    for frame in frames:
        try:
            secagg.decode_client_message(frame[8:], aggregator.plan.parameters)
            up += len(frame)
        except CodecError:
            secagg.decode_server_message(frame[8:], aggregator.plan.parameters)
            down += len(frame)
    # Four messages of each client; an answer of the server to each of the first three.
    assert len(frames) == 7 * len(IDS)
    assert result.bytes_up == up
    assert result.bytes_down == down


def test_a_client_that_vanishes_costs_no_more_bytes() -> None:
    whole, part = (
        secure_aggregator().aggregate(make_request(Clients(), faults))
        for faults in ({}, {(IDS[0], Round.MASKED_INPUT_COLLECTION, UP): Fault.VANISH})
    )
    params = secure_aggregator().plan.parameters
    masked_input = params.vector_length * params.ring_bits // 8
    assert whole.bytes_up - part.bytes_up >= masked_input
    assert whole.bytes_down > part.bytes_down


def test_plain_bytes_are_float32_and_three_counters_a_client() -> None:
    result = PlainAggregator().aggregate(make_request(Clients(), {(IDS[0], Round.SHARE_KEYS, UP): Fault.VANISH}))
    expected = 0
    for client_id in IDS[1:]:
        update = Clients().update(client_id)
        content = [update.num_examples, update.metrics, update.loss_sum, update.delta.tobytes()]
        expected += 8 + len(msgpack.packb(content))
    assert result.bytes_up == expected
    assert result.bytes_down == 0


def test_the_request_reaches_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(params: secagg.Parameters, inputs: Any, **options: Any) -> SessionReport:
        seen.update(options, params=params)
        return run_session(params, inputs, **options)

    monkeypatch.setattr(secure_aggregation, "run_session", run)
    aggregator = secure_aggregator()
    request = make_request(Clients(), {(IDS[1], Round.UNMASKING, UP): Fault.VANISH})
    aggregator.aggregate(request)
    assert seen["params"] == aggregator.plan.parameters
    assert seen["context"] == request.context
    assert seen["received_context"](IDS[0]) == request.received_context(IDS[0])
    assert seen["client_ids"] == request.client_ids
    assert seen["faults"] == request.faults
    assert seen["seed"] == request.seed


@pytest.mark.parametrize("aggregator", [secure_aggregator(), PlainAggregator()], ids=lambda aggregator: aggregator.name)
def test_progress_is_reported_up_to_the_last_client(aggregator: SecureAggregator | PlainAggregator) -> None:
    heard: list[tuple[Round, int, int]] = []
    aggregator.aggregate(make_request(Clients(), observer=lambda *state: heard.append(state)))
    assert (Round.MASKED_INPUT_COLLECTION, len(IDS) - 1, len(IDS)) in heard
    assert all(answered <= awaited <= len(IDS) for _, answered, awaited in heard)


@pytest.mark.parametrize("aggregator", [secure_aggregator(), PlainAggregator()], ids=lambda aggregator: aggregator.name)
def test_training_time_is_a_part_of_the_rounds_time(aggregator: SecureAggregator | PlainAggregator) -> None:
    result = aggregator.aggregate(make_request(Clients()))
    assert 0 < result.training_seconds < result.seconds
