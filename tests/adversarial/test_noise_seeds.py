"""A lying server and its corrupt clients learn of honest clients' noise what one list of survivors gives away."""

from dataclasses import replace

import pytest

from secagg import ClientPhase, RemoteProtocolError, Rule, noise
from secagg.messages import ConsistencyCheck, ConsistencyProof, SurvivorList
from tests.adversarial.adversary import CURIOUS, LYING, MALICIOUS, LyingServer, params_of
from tests.adversarial.knowledge import Knowledge, assert_hidden, assert_noise_stays

each_lying = pytest.mark.parametrize("mode", LYING, ids=lambda mode: mode.value)
each_mode = pytest.mark.parametrize("mode", [CURIOUS, *LYING], ids=lambda mode: mode.value)


@each_mode
def test_the_server_and_corrupt_clients_learn_the_removed_components_and_no_others(mode):
    """The positive control: with enough shares this model of the adversary does find seeds."""
    server = LyingServer(params_of(mode), corrupt=(1, 4))
    letters = server.until(SurvivorList)
    vanished = {client_id: letter for client_id, letter in letters.items() if client_id != 6}
    server.deliver(vanished)
    server.conclude()
    knowledge = assert_hidden(server)
    removed = noise.removed_components(server.params, 7)
    assert removed == (1, 2, 3)
    assert all(count >= server.params.threshold for owner in server.honest for count in knowledge.noise_counts(owner))


@each_mode
def test_of_components_that_stay_corrupt_clients_have_their_own_shares_alone(mode):
    server = LyingServer(params_of(mode), corrupt=(1, 4))
    letters = server.until(SurvivorList)
    flags = tuple(client_id not in (0, 3) for client_id in range(7))
    server.deliver({i: replace(letter, survivors=flags) for i, letter in letters.items() if flags[i]})
    if mode is not CURIOUS:
        # The lie is that 0 and 3 vanished; all others agree on it, and answer.
        proofs = _proofs(server, flags)
        server.deliver(proofs)
    knowledge = assert_hidden(server)
    removed = noise.removed_components(server.params, 5)
    assert removed == ()
    assert {tuple(knowledge.noise_counts(owner)) for owner in server.honest} == {(2, 2, 2)}


def _proofs(server, flags):
    """Return proofs that the flagged clients signed, as a lying server may put them together."""
    signatures = server.sent[ConsistencyCheck]
    signers = [client_id for client_id in range(7) if flags[client_id]]
    return {
        i: ConsistencyProof(
            server.session_id, flags, b"".join(signatures[peer].signature for peer in signers if peer != i)
        )
        for i in signers
    }


@each_lying
@pytest.mark.parametrize("misled", [(5, 6), (2, 5, 6), (0, 2, 3, 5, 6)], ids=str)
def test_honest_clients_release_for_one_list_at_most(mode, misled):
    """Some are told that two vanished, the others that all survive; a server that lies shows each any proof."""
    server = LyingServer(params_of(mode), corrupt=(1, 4))
    letters = server.until(SurvivorList)
    fewer = tuple(client_id not in (1, 4) for client_id in range(7))
    server.deliver({i: replace(told, survivors=fewer) if i in misled else told for i, told in letters.items()})
    for flags in (fewer, (True,) * 7):
        for client_id, proof in _proofs(server, flags).items():
            if server.clients[client_id].phase is ClientPhase.SURVIVORS_SIGNED:
                server.tell(client_id, proof)
    assert_noise_stays(Knowledge(server))
    assert {error.rule for error in server.refused.values()} <= {Rule.TOO_FEW_SIGNATURES, Rule.CONSISTENT_NOT_SUBSET}


def test_a_client_that_answered_releases_no_other_components():
    server = LyingServer(params_of(MALICIOUS))
    letters = server.until(SurvivorList)
    server.deliver(letters)
    server.conclude()
    fewer = tuple(client_id not in (3, 4) for client_id in range(7))
    with pytest.raises(RemoteProtocolError) as refused:
        server.clients[0].receive(replace(letters[0], survivors=fewer))
    assert refused.value.rule is Rule.SURVIVORS_CHANGED
