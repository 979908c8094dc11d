"""Clients that are present but of no use, since too few others are left: which are named, and when."""

from itertools import combinations

import pytest

from secagg import Aborted, AbortReason, ClientDropped, Completed, DropReason, Round, ServerPhase
from secagg.messages import MaskedInput, PeerKeys
from tests.secagg.machines import ALICE, IDS, MODES, VANISHED, script
from tests.support.sessions import BEFORE_SHARES, Cohort, exact_sum, make_params, random_inputs


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_clients_that_left_after_their_input_are_missing_too(adversary):
    """The inputs are a quorum, so the two clients left would answer; but two shares recover nothing."""
    recorded = script(adversary)
    server = recorded.server_in(ServerPhase.MASKED_INPUT_COLLECTION)
    for client_id, message in recorded.client_messages[MaskedInput].items():
        assert server.receive(client_id, message) == ()
    left = (ALICE, IDS[-1])
    for client_id in left:
        server.drop(client_id, DropReason.DISCONNECTED)
    assert not server.status.ready
    *_, end = server.close_round()
    missing = tuple(sorted((*left, VANISHED)))
    assert end == Aborted(AbortReason.TOO_FEW_CLIENTS, Round.MASKED_INPUT_COLLECTION, 3, 2, missing)
    assert server.phase is ServerPhase.ABORTED
    assert server.round is Round.MASKED_INPUT_COLLECTION


def test_a_client_without_a_quorum_around_it_is_dropped_in_the_round_of_the_shares():
    """The client would refuse the list that ends the round."""
    params = make_params(40, 4, vector_length=4, degree=8)
    inputs = random_inputs(params, seed=4)
    told = Cohort(params, inputs, entropy_seed="lonely").run().told[PeerKeys]
    seen = {client_id: set(message.client_ids) for client_id, message in told.items()}
    # Five of its eight neighbours, chosen so that all others keep a quorum.
    vanish = next(
        chosen
        for chosen in combinations(sorted(seen[7] - {7}), 5)
        if all(len(seen[i] - {7, *chosen}) >= params.quorum for i in set(inputs) - {7, *chosen})
    )
    outcome = Cohort(params, inputs, dict.fromkeys(vanish, BEFORE_SHARES), entropy_seed="lonely").run()
    reasons = dict.fromkeys(vanish, DropReason.DEADLINE) | {7: DropReason.TOO_FEW_NEIGHBORS}
    assert outcome.dropped == {i: ClientDropped(i, reason, Round.SHARE_KEYS) for i, reason in reasons.items()}
    assert isinstance(outcome.end, Completed)
    assert outcome.end.included == tuple(i for i in range(40) if i not in reasons)
    assert outcome.end.sum.tolist() == exact_sum(params, [inputs[i] for i in outcome.end.included])
    assert not outcome.refused
