"""The sparse graph's own attack: a different story for each neighbourhood, which isolates one client.

Every neighbour of the victim is told that it survived, as the victim did; and each of them is reported as vanished to
enough of *its* neighbours that its mask key comes out. The victim's self-mask seed is out, and so are all its pairwise
masks: no client has lost both secrets, and yet the victim's input is known.
"""

import pytest

from secagg import ClientPhase, RemoteProtocolError, Rule
from secagg.messages import PeerKeys, SurvivorList
from tests.adversarial.adversary import CURIOUS, LYING, LyingServer, params_of
from tests.adversarial.forgeries import consistency_proof, survivor_list
from tests.adversarial.knowledge import Knowledge, assert_hidden

pytestmark = pytest.mark.slow

VICTIM = 5

MODES = pytest.mark.parametrize("mode", LYING, ids=lambda mode: mode.value)


def stories(server: LyingServer, victim: int) -> dict[int, set[int]]:
    """Return the clients reported vanished to each client, such that all mask keys of the victim's neighbours come out.

    Greedily: the client that can still be told of the most dropouts is next. A client refuses a list below the quorum.
    """
    graph = {client_id: set(keys.client_ids) - {client_id} for client_id, keys in server.told[PeerKeys].items()}
    room = {client_id: len(peers) + 1 - server.params.quorum for client_id, peers in graph.items()}
    missing: dict[int, set[int]] = {client_id: set() for client_id in graph}
    for neighbour in sorted(graph[victim], key=lambda peer: len(graph[peer] & graph[victim])):
        for holder in sorted(graph[neighbour], key=lambda peer: (-room[peer], peer))[: server.params.threshold]:
            if room[holder]:
                missing[holder].add(neighbour)
                room[holder] -= 1
    return missing


def isolate(server: LyingServer, victim: int) -> Knowledge:
    """Carry out the attack, with all the proofs that can be made."""
    server.until(SurvivorList)
    missing = stories(server, victim)
    survivors = {client_id: set(server.inputs) - missing[client_id] for client_id in server.inputs}
    for client_id in server.inputs:
        server.tell(client_id, survivor_list(server, client_id, survivors[client_id]))
    for client_id, client in server.clients.items():
        if client.phase is ClientPhase.SURVIVORS_SIGNED:
            server.tell(client_id, consistency_proof(server, client_id, survivors[client_id]))
    return Knowledge(server)


def test_without_signatures_a_threshold_just_above_half_lets_the_server_isolate_a_client():
    """The reason for ConsistencyCheck against a lying server: each client keeps one secret, and that is not enough."""
    server = LyingServer(params_of(CURIOUS, "sparse", num_clients=44, degree=20, threshold=11))
    knowledge = isolate(server, VICTIM)
    assert all(min(knowledge.counts(owner)) < 11 for owner in server.honest)
    assert knowledge.sums()[frozenset((VICTIM,))].tolist() == server.inputs[VICTIM].tolist()


@MODES
def test_a_threshold_above_two_thirds_leaves_too_few_clients_to_lie_to(mode):
    server = LyingServer(params_of(mode, "sparse", num_clients=44, degree=20, threshold=15))
    isolate(server, VICTIM)
    assert_hidden(server)


@pytest.mark.parametrize("threshold", [11, 13])
@MODES
def test_with_signatures_deceived_neighbours_give_nothing(mode, threshold):
    server = LyingServer(params_of(mode, "sparse", num_clients=44, degree=20, threshold=threshold))
    isolate(server, VICTIM)
    assert_hidden(server)
    neighbours = set(server.told[PeerKeys][VICTIM].client_ids) - {VICTIM}
    refused = {peer for peer in neighbours if isinstance(server.refused.get(peer), RemoteProtocolError)}
    assert refused, "the clients that the lies were about saw them"


@MODES
def test_views_with_another_standing_of_a_common_peer_are_not_a_quorum(mode):
    """The same attack with one lie: a client learns of unknown members by their digests alone."""
    server = LyingServer(params_of(mode, "sparse"))
    letters = server.until(SurvivorList)
    peers = set(letters) & set(server.told[PeerKeys][1].client_ids) - {1}
    gone = max(peers)
    letters[1] = survivor_list(server, 1, set(server.inputs) - {gone})
    server.deliver(letters)
    saw_it = [peer for peer in peers - {gone} if gone in server.told[PeerKeys][peer].client_ids]
    assert len(peers) - len(saw_it) < server.params.threshold, "too few clients saw no lie"
    assert server.tell(1, consistency_proof(server, 1, peers - {gone})) == []
    server.assert_refused(1, Rule.TOO_FEW_SIGNATURES, Rule.VIEWS_CONTRADICT)
