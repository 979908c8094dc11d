"""Lists for many clients and their size in memory: one message for all, flags of any length, no directory."""

import pytest

from secagg import ClientPhase, Completed, PinnedKeys, Send, ServerPhase
from secagg.messages import AdvertiseKeys, ConsistencyProof, MaskedInput, PeerKeys, SurvivorList
from tests.secagg.machines import ALICE, MALICIOUS, MODES, script
from tests.secagg.object_graph import reachable
from tests.support.sessions import BEFORE_INPUT, BEFORE_KEYS, Cohort, exact_sum, make_params, random_inputs


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("phase", "answered", "kind"),
    [
        (ServerPhase.ADVERTISE_KEYS, AdvertiseKeys, PeerKeys),
        (ServerPhase.MASKED_INPUT_COLLECTION, MaskedInput, SurvivorList),
    ],
    ids=["keys", "survivors"],
)
def test_on_the_complete_graph_one_list_serves_all(adversary, phase, answered, kind):
    """The host encodes one message object, and memory does not grow with the square of the clients."""
    recorded = script(adversary)
    server = recorded.server_in(phase)
    for client_id, message in recorded.client_messages[answered].items():
        server.receive(client_id, message)
    lists = [event.message for event in server.close_round() if isinstance(event, Send)]
    assert len(lists) >= 4
    assert isinstance(lists[0], kind)
    assert all(message is lists[0] for message in lists)


# Eight places take one byte of flags, nine take two. A neighbourhood of a sparse graph has an odd number of places,
# unless so few clients advertised that all of them fit one neighbourhood.
@pytest.mark.parametrize("num_advertised", [7, 8, 9, 12])
def test_views_of_any_length_are_signed_and_read(num_advertised):
    params = make_params(12, 5, vector_length=3, degree=8, adversary=MALICIOUS)
    inputs = random_inputs(params, seed=5)
    late = dict.fromkeys(range(num_advertised, 12), BEFORE_KEYS)
    session = Cohort(params, inputs, late | {2: BEFORE_INPUT}, downlink=_kept_by(proofs := {}), entropy_seed="flags")
    outcome = session.run()
    assert isinstance(outcome.end, Completed)
    assert not outcome.refused
    included = [client_id for client_id in range(num_advertised) if client_id != 2]
    assert outcome.end.included == tuple(included)
    assert outcome.end.sum.tolist() == exact_sum(params, [inputs[client_id] for client_id in included])
    for proof in proofs.values():
        flag_bytes = 2 if num_advertised > 8 else 1
        assert len(proof.common) == flag_bytes * (sum(proof.consistent) - 1)


def _kept_by(proofs):
    def downlink(client_id, message):
        if isinstance(message, ConsistencyProof):
            proofs[client_id] = message
        return message

    return downlink


def test_a_finished_client_drops_its_reference_to_the_directory():
    """The directory is the host's, and may hold a connection open: the client will not ask it again."""
    for phase, holds_it in [(ClientPhase.SURVIVORS_SIGNED, True), (ClientPhase.FINISHED, False)]:
        client, _ = script(MALICIOUS).client(phase, ALICE)
        assert any(isinstance(thing, PinnedKeys) for thing in reachable(client)) is holds_it
