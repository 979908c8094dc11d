"""Lies about survivors: lists that differ, break a rule, or come twice, and inputs that come too late."""

import pytest

from secagg import Aborted, ClientPhase, Completed, Rule
from secagg.messages import ConsistencyProof, MaskedInput, PeerKeys, ShareKeys, SurvivorList, UnmaskingShares
from tests.adversarial.adversary import GRAPHS, LYING, LyingServer, params_of
from tests.adversarial.forgeries import consistency_proof, survivor_list
from tests.adversarial.knowledge import assert_hidden

pytestmark = [pytest.mark.parametrize("graph", GRAPHS), pytest.mark.parametrize("mode", LYING, ids=lambda m: m.value)]

# For each client, of n: the clients that it is told have vanished (never itself).
STORIES = {
    "halves hear of one another's last": lambda n, i: {n - 1} if i < n // 2 else {0},
    "halves disagree about one client": lambda n, i: {3} if i < n // 2 else set(),
    "a single client hears of another": lambda n, i: {4} if i == 1 else set(),
    "all but one hear that it vanished": lambda n, i: {4},
    "everyone misses its right neighbour": lambda n, i: {(i + 1) % n},
    "everyone misses two others": lambda n, i: {(i + 1) % n, (i + 3) % n},
    "three groups": lambda n, i: {n - 1 - i % 3},
}


def proofs_for_all(server: LyingServer) -> None:
    """Send each signer the best proof that can be made from all signatures."""
    for client_id, client in server.clients.items():
        if client.phase is ClientPhase.SURVIVORS_SIGNED:
            told = server.told[SurvivorList][client_id].survivors
            listed = server.told[PeerKeys][client_id].client_ids
            survivors = {peer_id for peer_id, survives in zip(listed, told, strict=True) if survives}
            signers = [peer_id for peer_id in survivors if peer_id in server.told[SurvivorList]]
            server.tell(client_id, consistency_proof(server, client_id, signers))


@pytest.mark.parametrize("story", STORIES)
def test_different_lists_for_different_clients_give_no_second_secret(mode, graph, story):
    server = LyingServer(params_of(mode, graph))
    for client_id in server.until(SurvivorList):
        missing = STORIES[story](server.params.num_clients, client_id) - {client_id}
        server.tell(client_id, survivor_list(server, client_id, set(server.inputs) - missing))
    server.conclude()
    if isinstance(server.end, Completed):
        server.assert_exact(server.inputs)
    proofs_for_all(server)
    assert_hidden(server)


@pytest.mark.parametrize("story", STORIES)
def test_different_lists_and_a_corrupt_signer_give_no_second_secret(mode, graph, story):
    server = LyingServer(params_of(mode, graph), corrupt=(2,))
    for client_id in server.until(SurvivorList):
        missing = STORIES[story](server.params.num_clients, client_id) - {client_id}
        server.tell(client_id, survivor_list(server, client_id, set(server.inputs) - missing))
    server.conclude()
    proofs_for_all(server)
    assert_hidden(server)


def test_an_honest_session_continues_without_the_deceived_client(mode, graph):
    server = LyingServer(params_of(mode, graph))
    letters = server.until(SurvivorList)
    letters[1] = survivor_list(server, 1, set(server.inputs) - {4})
    server.deliver(letters)
    server.conclude()
    server.assert_exact(server.inputs)
    assert_hidden(server)


# --- Lists that break a rule ------------------------------------------------------------------------------------------


def _flags(server: LyingServer, client_id: int, number: int) -> SurvivorList:
    """Return a list of ``number`` survivors, the client itself among them."""
    listed = [client_id, *(peer for peer in server.told[PeerKeys][client_id].client_ids if peer != client_id)]
    return survivor_list(server, client_id, listed[:number])


RULES = {
    "itself missing": (
        lambda server, told: survivor_list(server, 1, set(server.inputs) - {1}),
        Rule.SELF_MISSING,
    ),
    "one flag too few": (
        lambda server, told: SurvivorList(server.session_id, told.survivors[:-1]),
        Rule.WRONG_SIZE,
    ),
    "no flags at all": (lambda server, told: SurvivorList(server.session_id, ()), Rule.WRONG_SIZE),
    "fewer than a quorum": (lambda server, told: _flags(server, 1, server.params.quorum - 1), Rule.TOO_FEW_PEERS),
    "nobody but itself": (lambda server, told: survivor_list(server, 1, {1}), Rule.TOO_FEW_PEERS),
    "another session": (lambda server, told: SurvivorList(bytes(32), told.survivors), Rule.WRONG_SESSION),
}


@pytest.mark.parametrize("lie", RULES)
def test_a_list_that_breaks_a_rule_costs_the_server_that_client_alone(mode, graph, lie):
    forge, rule = RULES[lie]
    server = LyingServer(params_of(mode, graph))
    letters = server.until(SurvivorList)
    letters[1] = forge(server, letters[1])
    server.deliver(letters)
    server.assert_refused(1, rule)
    assert 1 not in server.sent.get(UnmaskingShares, {})
    server.conclude()
    server.assert_exact(server.inputs)
    assert_hidden(server)


def test_a_survivor_that_had_not_shared_its_keys_is_refused(mode, graph):
    server = LyingServer(params_of(mode, graph), uplink=_loses(4, ShareKeys))
    letters = server.until(SurvivorList)
    liked = [i for i in letters if 4 in server.told[PeerKeys][i].client_ids]
    letters[liked[0]] = survivor_list(server, liked[0], server.inputs)
    server.deliver(letters)
    server.assert_refused(liked[0], Rule.SURVIVORS_NOT_SUBSET)
    server.conclude()
    server.assert_exact(set(server.inputs) - {4})
    assert_hidden(server)


# --- Repeated lists and late inputs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["the same", "another"])
def test_both_lists_to_one_client_get_one_answer(mode, graph, second):
    server = LyingServer(params_of(mode, graph))
    letters = server.until(SurvivorList)
    server.deliver(letters)
    gone = max(server.told[PeerKeys][1].client_ids)
    again = letters[1] if second == "the same" else survivor_list(server, 1, set(server.inputs) - {gone})
    assert server.tell(1, again) == []
    server.assert_refused(1, Rule.REPEATED_REQUEST if second == "the same" else Rule.SURVIVORS_CHANGED)
    server.conclude()
    server.assert_exact(server.inputs)
    assert_hidden(server)


def test_a_second_request_after_the_shares_are_out_releases_nothing_more(mode, graph):
    server = LyingServer(params_of(mode, graph))
    server.conclude()
    for client_id in server.inputs:
        assert server.tell(client_id, server.told[ConsistencyProof][client_id]) == []
        server.assert_refused(client_id, Rule.REPEATED_REQUEST)
        assert server.tell(client_id, survivor_list(server, client_id, set(server.inputs) - {4})) == []
    server.assert_exact(server.inputs)
    assert_hidden(server)


@pytest.mark.parametrize("after", ["the lists are out", "its mask key is known"])
def test_an_input_that_comes_after_its_client_was_given_up_stays_masked(mode, graph, after):
    """The reason for the second mask (paper, section 4): the server has the pairwise masks of the late input."""
    server = LyingServer(params_of(mode, graph), uplink=_loses(4, MaskedInput))
    server.deliver(server.until(SurvivorList))
    if after == "its mask key is known":
        server.conclude()
    server.forward(4, server.sent[MaskedInput][4])
    server.conclude()
    server.assert_exact(set(server.inputs) - {4})
    knowledge = assert_hidden(server)
    assert knowledge.counts(4)[0] >= server.params.threshold, "the mask key is out, as it must be"


def test_the_late_client_cannot_be_talked_into_unmasking_its_own_input(mode, graph):
    server = LyingServer(params_of(mode, graph), uplink=_loses(4, MaskedInput))
    server.conclude()
    # The late client is on this list, since its input has come by now; nobody else signed it.
    server.tell(4, survivor_list(server, 4, server.inputs))
    server.tell(4, consistency_proof(server, 4, server.told[SurvivorList]))
    server.assert_refused(4, Rule.TOO_FEW_SIGNATURES, Rule.VIEWS_CONTRADICT)
    assert_hidden(server)


def test_too_many_dropouts_end_the_session_before_anything_is_unmasked(mode, graph):
    def uplink(client_id, message):
        return () if client_id > 2 and isinstance(message, MaskedInput) else (message,)

    server = LyingServer(params_of(mode, graph), uplink=uplink)
    server.conclude()
    assert isinstance(server.end, Aborted)
    assert UnmaskingShares not in server.sent
    assert_hidden(server)


def _loses(client_id: int, kind: type):
    """Return an uplink on which one client's message of this type never arrives at the honest half."""
    return lambda sender, message: () if sender == client_id and isinstance(message, kind) else (message,)
