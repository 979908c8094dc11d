"""A nonce that the server uses twice: clients that take part again under one session id, with new keys."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import ClientPhase, Rule
from secagg.messages import AdvertiseKeys, ConsistencyCheck, ConsistencyProof, PeerKeys, UnmaskingShares
from tests.adversarial.adversary import LYING, MALICIOUS, LyingServer, params_of
from tests.adversarial.forgeries import consistency_proof, peer_keys, survivor_list
from tests.adversarial.knowledge import assert_hidden
from tests.adversarial.test_degenerate_graphs import play, shares_for, tree_like

MODES = pytest.mark.parametrize("mode", LYING, ids=lambda mode: mode.value)

VICTIM, PEERS, LEAVES = 0, range(1, 5), range(5, 17)
"""For `tree_like`: the victim's neighbours are the peers; each peer's others are three leaves, in three cliques."""


def first_run(server: LyingServer, graph: Mapping[int, set[int]], twice: set[int]) -> LyingServer:
    """Let the clients in ``twice`` run up to their signatures, under the id of the session that ``server`` has begun.

    They see each other's keys of this run, and the only keys of the others, which are those in ``server``.
    All are told that everyone survived.
    """
    run = LyingServer(server.params, seed="first run")
    run.start()
    assert run.session_id == server.session_id
    for client_id in twice:
        said = {peer: (run if peer in twice else server).sent[AdvertiseKeys][peer] for peer in graph[client_id]}
        run.tell(client_id, peer_keys(run, said))
    for client_id in twice:
        run.tell(client_id, shares_for(run, graph, client_id, graph[client_id]))
    for client_id in twice:
        run.tell(client_id, survivor_list(run, client_id, run.inputs))
    assert set(run.sent[ConsistencyCheck]) == twice
    return run


@MODES
def test_a_peers_signature_in_another_run_does_not_isolate_a_client(mode):
    """Nobody is corrupt. The leaves run twice: first they are told that their peer survived, then that it vanished.

    If the first signatures counted, the peers would release shares of the victim's self-mask seed, and the leaves
    shares of the peers' mask keys: no client would have lost both secrets, and the victim's input would be known.
    """
    server = LyingServer(params_of(mode, "sparse", num_clients=17, degree=4, threshold=3))
    server.start()
    graph = tree_like()
    run = first_run(server, graph, set(LEAVES))
    missing = {leaf: graph[leaf] & set(PEERS) for leaf in LEAVES}
    knowledge = play(server, graph, missing, runs={peer: dict.fromkeys(LEAVES, run) for peer in PEERS})
    for peer in PEERS:
        server.assert_refused(peer, Rule.VIEWS_CONTRADICT)
    assert set(server.sent[UnmaskingShares]) == {VICTIM, *LEAVES}
    assert frozenset({VICTIM}) not in knowledge.sums()
    assert_hidden(server)


@MODES
def test_an_honest_session_ends_as_it_should_although_its_clients_have_run_before(mode):
    server = LyingServer(params_of(mode, "sparse", num_clients=17, degree=4, threshold=3))
    server.start()
    first_run(server, tree_like(), set(LEAVES))
    server.conclude()
    server.assert_exact(server.inputs)
    assert not server.refused
    assert_hidden(server)


@MODES
def test_an_honest_servers_proofs_have_the_receiver_and_the_signer_in_every_view(mode):
    """The clients' checks cost an honest server nothing."""
    server = LyingServer(params_of(mode, "sparse"))
    server.conclude()
    for receiver, proof in server.told[ConsistencyProof].items():
        listed = server.told[PeerKeys][receiver].client_ids
        signers = [peer for peer, signed in zip(listed, proof.consistent, strict=True) if signed and peer != receiver]
        for signer, bits in zip(signers, proof.common, strict=True):
            assert {receiver, signer} <= {peer for place, peer in enumerate(listed) if bits >> place & 1}


@settings(max_examples=30)
@given(st.data())
@pytest.mark.slow
def test_signatures_of_two_runs_in_any_mixture_count_for_their_own_run_alone(data):
    """The same nonce again on a sparse graph: a client that is shown a signature of the other run refuses it."""
    server = LyingServer(params_of(MALICIOUS, "sparse"))
    letters = server.until(PeerKeys)
    graph = {client_id: set(keys.client_ids) for client_id, keys in letters.items()}
    twice = set(server.inputs) - data.draw(st.sets(st.sampled_from(sorted(server.inputs)), max_size=2), "one run only")
    run = first_run(server, graph, twice)
    server.deliver(letters)
    proofs = server.until(ConsistencyProof)
    mixed = {client_id: data.draw(st.sets(st.sampled_from(sorted(graph[client_id] & twice)))) for client_id in proofs}
    for client_id in proofs:
        runs = dict.fromkeys(mixed[client_id], run)
        server.tell(client_id, consistency_proof(server, client_id, server.inputs, runs=runs))
        if mixed[client_id] - {client_id}:
            server.assert_refused(client_id, Rule.VIEWS_CONTRADICT)
        else:
            assert server.clients[client_id].phase is ClientPhase.FINISHED
    server.conclude()
    assert_hidden(server)
