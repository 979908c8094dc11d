"""Lies about signers: signatures that are forged, missing, old, of another client, or of another view."""

import hashlib

import pytest

from secagg import Adversary, ClientPhase, CodecError, Identity, Rule, statements
from secagg.messages import ConsistencyCheck, ConsistencyProof, PeerKeys, SurvivorList, UnmaskingShares
from tests.adversarial.adversary import GRAPHS, LYING, LyingServer, params_of
from tests.adversarial.forgeries import consistency_proof, members_of, survivor_list
from tests.adversarial.knowledge import assert_hidden

pytestmark = [pytest.mark.parametrize("graph", GRAPHS), pytest.mark.parametrize("mode", LYING, ids=lambda m: m.value)]

ALICE = 1

STRANGER = Identity(hashlib.sha256(b"stranger").digest())


def proofs(mode: Adversary, graph: str) -> tuple[LyingServer, dict[int, ConsistencyProof]]:
    server = LyingServer(params_of(mode, graph))
    return server, server.until(ConsistencyProof)


def peers_of(server: LyingServer) -> list[int]:
    return [peer_id for peer_id in server.told[PeerKeys][ALICE].client_ids if peer_id != ALICE]


def statement_of(server: LyingServer, signer: int, view_of: int | None = None) -> bytes:
    """Return the signer's statement, if its view is that of ``view_of``."""
    members = members_of(server, signer if view_of is None else view_of)
    return statements.view(server.session_id, signer, statements.view_digest(server.session_id, members))


def _missing(server):
    """Keep fewer than a quorum."""
    return consistency_proof(server, ALICE, peers_of(server)[: server.params.quorum - 2])


def _garbage(server):
    return consistency_proof(server, ALICE, peers_of(server), {peer: bytes(64) for peer in peers_of(server)})


def _by_strangers(server):
    forged = {peer: STRANGER.sign(statement_of(server, peer)) for peer in peers_of(server)}
    return consistency_proof(server, ALICE, peers_of(server), forged)


def _of_one_for_all(server):
    peer, *_ = peers_of(server)
    one = server.sent[ConsistencyCheck][peer].signature
    return consistency_proof(server, ALICE, peers_of(server), dict.fromkeys(peers_of(server), one))


def _its_own_for_all(server):
    own = server.sent[ConsistencyCheck][ALICE].signature
    return consistency_proof(server, ALICE, peers_of(server), dict.fromkeys(peers_of(server), own))


def _shuffled(server):
    peers = peers_of(server)
    signatures = [server.sent[ConsistencyCheck][peer].signature for peer in peers]
    return consistency_proof(server, ALICE, peers, dict(zip(peers, signatures[1:] + signatures[:1], strict=True)))


def _of_another_session(server):
    other = LyingServer(server.params, nonce=b"another nonce")
    other.until(ConsistencyProof)
    old = {peer: said.signature for peer, said in other.sent[ConsistencyCheck].items()}
    return consistency_proof(server, ALICE, peers_of(server), old)


def _of_their_keys(server):
    """Use a signature that the client did give, in another round."""
    keys = server.told[PeerKeys][ALICE]
    signed = {peer: keys.signatures[64 * place : 64 * (place + 1)] for place, peer in enumerate(keys.client_ids)}
    return consistency_proof(server, ALICE, peers_of(server), signed)


@pytest.mark.parametrize(
    "forge",
    [
        _missing,
        _garbage,
        _by_strangers,
        _of_one_for_all,
        _its_own_for_all,
        _shuffled,
        _of_another_session,
        _of_their_keys,
    ],
    ids=lambda forge: forge.__name__.strip("_").replace("_", " "),
)
def test_a_proof_of_bad_signatures_releases_nothing_and_the_others_end_exactly(mode, graph, forge):
    server, letters = proofs(mode, graph)
    letters[ALICE] = forge(server)
    server.deliver(letters)
    server.assert_refused(ALICE, Rule.TOO_FEW_SIGNATURES, Rule.TOO_FEW_PEERS)
    assert ALICE not in server.sent[UnmaskingShares]
    server.conclude()
    server.assert_exact(server.inputs)
    assert_hidden(server)


def test_a_few_bad_signatures_among_a_quorum_of_good_ones_do_no_harm(mode, graph):
    server, letters = proofs(mode, graph)
    peers = peers_of(server)
    spare = len(peers) + 1 - server.params.quorum
    signatures = {peer: server.sent[ConsistencyCheck][peer].signature for peer in peers}
    signatures |= dict.fromkeys(peers[:spare], bytes(64))
    letters[ALICE] = consistency_proof(server, ALICE, peers, signatures)
    server.deliver(letters)
    assert server.clients[ALICE].phase is ClientPhase.FINISHED
    server.conclude()
    server.assert_exact(server.inputs)
    assert_hidden(server)


def test_one_bad_signature_more_than_that_is_refused(mode, graph):
    server, _ = proofs(mode, graph)
    peers = peers_of(server)
    spare = len(peers) + 1 - server.params.quorum
    signatures = {peer: server.sent[ConsistencyCheck][peer].signature for peer in peers}
    signatures |= dict.fromkeys(peers[: spare + 1], bytes(64))
    assert server.tell(ALICE, consistency_proof(server, ALICE, peers, signatures)) == []
    server.assert_refused(ALICE, Rule.TOO_FEW_SIGNATURES)


def test_a_corrupt_client_that_signs_two_views_is_one_signature_only(mode, graph):
    """Alice is told of another survivor set; only the corrupt client signs that one too."""
    server = LyingServer(params_of(mode, graph), corrupt=(2,))
    letters = server.until(SurvivorList)
    gone = max(peers_of(server))
    letters[ALICE] = survivor_list(server, ALICE, set(server.inputs) - {gone})
    server.deliver(letters)
    signatures = {peer: said.signature for peer, said in server.sent[ConsistencyCheck].items()}
    signatures[2] = server.signer(2).sign(statement_of(server, 2, view_of=ALICE))
    signers = set(peers_of(server)) - {gone}
    server.tell(ALICE, consistency_proof(server, ALICE, signers, signatures))
    server.assert_refused(ALICE, Rule.TOO_FEW_SIGNATURES, Rule.VIEWS_CONTRADICT)
    server.conclude()
    server.assert_exact(server.inputs)
    assert_hidden(server)


def test_a_proof_before_the_list_is_out_of_turn(mode, graph):
    _, letters = proofs(mode, graph)
    other = LyingServer(params_of(mode, graph))
    other.until(SurvivorList)
    assert other.tell(ALICE, letters[ALICE]) == []
    other.assert_refused(ALICE, Rule.UNEXPECTED_MESSAGE)
    other.conclude()
    assert_hidden(other)


@pytest.mark.parametrize("size", [63, 65, 64 * 10_000], ids=str)
def test_signatures_of_the_wrong_size_are_refused(mode, graph, size):
    server, letters = proofs(mode, graph)
    honest = letters[ALICE]
    forged = ConsistencyProof(server.session_id, honest.consistent, bytes(size), honest.common, honest.others)
    assert server.tell(ALICE, forged) == []
    assert isinstance(server.refused[ALICE], CodecError)
    server.deliver({client_id: letter for client_id, letter in letters.items() if client_id != ALICE})
    server.conclude()
    server.assert_exact(server.inputs)


def test_a_signer_who_did_not_survive_is_refused(mode, graph):
    server = LyingServer(params_of(mode, graph))
    letters = server.until(SurvivorList)
    gone = max(peers_of(server))
    letters[ALICE] = survivor_list(server, ALICE, set(server.inputs) - {gone})
    server.deliver(letters)
    assert server.tell(ALICE, consistency_proof(server, ALICE, peers_of(server))) == []
    server.assert_refused(ALICE, Rule.CONSISTENT_NOT_SUBSET)
