"""Neighbourhoods that the server chooses: too small, too large, one-sided, or cut into cliques."""

from collections.abc import Mapping

import pytest

from secagg import CodecError, Rule
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests.adversarial.adversary import LYING, MALICIOUS, LyingServer, params_of
from tests.adversarial.forgeries import consistency_proof, peer_keys, survivor_list
from tests.adversarial.knowledge import Knowledge, assert_hidden

Graph = Mapping[int, set[int]]

MODES = pytest.mark.parametrize("mode", LYING, ids=lambda mode: mode.value)


def clique(members: set[int]) -> dict[int, set[int]]:
    return dict.fromkeys(members, members)


def play(
    server: LyingServer,
    graph: Graph,
    missing: Mapping[int, set[int]] | None = None,
    runs: Mapping[int, Mapping[int, LyingServer]] | None = None,
) -> Knowledge:
    """Play a whole session on this graph (neighbourhoods with the client itself), without the honest half.

    ``missing``: clients reported vanished to each client; ``runs``: the runs behind its `consistency_proof`.
    """
    if not server.sent:
        server.start()
    said = server.sent[AdvertiseKeys]
    for client_id, members in graph.items():
        server.tell(client_id, peer_keys(server, {peer: said[peer] for peer in members}))
    for client_id, members in graph.items():
        server.tell(client_id, shares_for(server, graph, client_id, members))
    survivors = {client_id: set(server.inputs) - (missing or {}).get(client_id, set()) for client_id in graph}
    for client_id in graph:
        if client_id in server.sent.get(MaskedInput, {}):
            server.tell(client_id, survivor_list(server, client_id, survivors[client_id]))
    for client_id in server.sent.get(ConsistencyCheck, {}):
        signers = survivors[client_id] & set(server.sent[ConsistencyCheck])
        server.tell(client_id, consistency_proof(server, client_id, signers, runs=(runs or {}).get(client_id)))
    return Knowledge(server)


def shares_for(server: LyingServer, graph: Graph, receiver: int, members: set[int]) -> PeerShares:
    """Return the shares that its peers encrypted for the receiver; zeros from peers without it on their lists."""
    items = []
    for sender in sorted(members - {receiver}):
        receivers = sorted(graph[sender] - {sender})
        if receiver in receivers and sender in server.sent.get(ShareKeys, {}):
            at = ENCRYPTED_SHARES_BYTES * receivers.index(receiver)
            items.append(server.sent[ShareKeys][sender].encrypted_shares[at : at + ENCRYPTED_SHARES_BYTES])
        else:
            items.append(bytes(ENCRYPTED_SHARES_BYTES))
    return PeerShares(server.session_id, (True,) * len(members), b"".join(items))


@pytest.mark.slow
@MODES
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_a_neighbourhood_below_the_quorum_is_refused(mode, size):
    server = LyingServer(params_of(mode, "sparse"))
    letters = server.until(PeerKeys)
    members = [1, *(peer for peer in letters[1].client_ids if peer != 1)][:size]
    letters[1] = peer_keys(server, {peer: server.sent[AdvertiseKeys][peer] for peer in members})
    server.deliver(letters)
    server.assert_refused(1, Rule.TOO_FEW_PEERS if size else Rule.SELF_MISSING)
    server.conclude()
    server.assert_exact(set(server.inputs) - {1})
    assert_hidden(server)


@MODES
def test_a_neighbourhood_above_the_degree_is_refused(mode):
    server = LyingServer(params_of(mode, "sparse"))
    letters = server.until(PeerKeys)
    letters[1] = peer_keys(server, server.sent[AdvertiseKeys])
    server.deliver(letters)
    assert isinstance(server.refused[1], CodecError)
    server.conclude()
    server.assert_exact(set(server.inputs) - {1})


@MODES
def test_a_neighbourhood_of_others_alone_is_refused(mode):
    server = LyingServer(params_of(mode, "sparse"))
    letters = server.until(PeerKeys)
    others = {peer: server.sent[AdvertiseKeys][peer] for peer in (0, 2, 3, 4, 5, 6)}
    letters[1] = peer_keys(server, others)
    server.deliver(letters)
    server.assert_refused(1, Rule.SELF_MISSING)


@MODES
def test_one_sided_neighbourhoods_give_no_input(mode):
    """Everyone's peers are the next six on the ring, which have other peers, except where the ring closes."""
    server = LyingServer(params_of(mode, "sparse"))
    knowledge = play(server, {i: {(i + step) % 12 for step in range(7)} for i in range(12)})
    for client_id in server.inputs:
        server.assert_refused(client_id, Rule.TOO_FEW_VALID_SHARES)
    assert knowledge.sums() == {}
    assert_hidden(server)


@MODES
def test_half_of_the_neighbourhoods_one_sided_give_no_input(mode):
    """Some lists do not fit a graph: the last six have one another's list, the rest its own."""
    server = LyingServer(params_of(mode, "sparse"))
    graph = clique(set(range(6, 12))) | {i: {i, *range(6, 12)} for i in range(6)}
    play(server, graph)
    assert_hidden(server, least=server.params.quorum)


@MODES
def test_cut_into_cliques_each_gives_its_own_sum(mode):
    """Known limit: the server draws the graph, so an input hides among the quorum of one neighbourhood."""
    server = LyingServer(params_of(mode, "sparse"))
    knowledge = play(server, clique(set(range(6))) | clique(set(range(6, 12))))
    assert set(knowledge.sums()) == {frozenset(range(6)), frozenset(range(6, 12))}
    assert_hidden(server, least=server.params.quorum)


@MODES
def test_corrupt_clients_in_the_same_clique_thin_it_out(mode):
    """Known limit: corrupt clients in a neighbourhood reduce the number of inputs that hide each other."""
    server = LyingServer(params_of(mode, "sparse"), corrupt=(0,))
    knowledge = play(server, clique(set(range(5))))
    assert set(knowledge.sums()) == {frozenset({1, 2, 3, 4})}
    assert_hidden(server, least=server.params.quorum - 1)


def test_more_corrupt_neighbours_than_planned_for_break_a_client():
    """Known limit: the plan assumes a random graph; a server that draws it puts all corrupt clients next to one."""
    server = LyingServer(params_of(MALICIOUS, "sparse"), corrupt=(0, 2, 3, 4))
    knowledge = play(server, clique({0, 1, 2, 3, 4}))
    assert min(knowledge.counts(1)) >= server.params.threshold
    assert knowledge.sums()[frozenset({1})].tolist() == server.inputs[1].tolist()


def tree_like() -> dict[int, set[int]]:
    """Return a graph: client 0 has peers 1 to 4, and each of these has three others, who are one another's peers."""
    graph = {0: set(range(5))}
    leaves = list(range(5, 17))
    for peer in range(1, 5):
        own = leaves[3 * (peer - 1) : 3 * peer]
        graph[peer] = {0, peer, *own}
    for place, leaf in enumerate(leaves):
        # Three more peers, one in each other family.
        graph[leaf] = {leaf, 1 + place // 3, *(leaves[(place + 3 * step) % 12] for step in (1, 2, 3))}
    return graph


@MODES
def test_a_graph_without_triangles_isolates_nobody(mode):
    """With few common neighbours one lie to each client is enough; the client that it is about must see it."""
    server = LyingServer(params_of(mode, "sparse", num_clients=17, degree=4, threshold=3))
    graph = tree_like()
    # Each leaf is told that the peer of its family has vanished; the peers are told that all survived.
    missing = {leaf: {next(peer for peer in graph[leaf] if 1 <= peer <= 4)} for leaf in range(5, 17)}
    play(server, graph, missing)
    # Each peer of client 0 has one other peer that agrees with it: client 0 itself.
    for peer in range(1, 5):
        server.assert_refused(peer, Rule.TOO_FEW_SIGNATURES, Rule.VIEWS_CONTRADICT)
    assert_hidden(server)


@MODES
def test_an_honest_list_of_survivors_on_a_drawn_graph_keeps_one_secret_each(mode):
    server = LyingServer(params_of(mode, "sparse", num_clients=17, degree=4, threshold=3))
    play(server, tree_like())
    assert set(server.sent[UnmaskingShares]) == set(server.inputs)
    assert_hidden(server, least=server.params.quorum)
    assert set(server.told[SurvivorList]) == set(server.inputs)
