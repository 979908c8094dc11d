"""Messages of another session, another round, another client or another direction; and absent clients."""

from dataclasses import replace

import pytest

from secagg import Aborted, CodecError, Completed, DropReason, Rule, encode
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests.adversarial.adversary import CURIOUS, GRAPHS, LYING, MALICIOUS, LyingServer, params_of
from tests.adversarial.forgeries import consistency_proof, peer_keys
from tests.adversarial.knowledge import assert_hidden

pytestmark = pytest.mark.slow

FROM_SERVER = (PeerKeys, PeerShares, SurvivorList, ConsistencyProof)
FROM_CLIENT = (AdvertiseKeys, ShareKeys, MaskedInput, ConsistencyCheck, UnmaskingShares)

ALICE = 1


def kinds(server: LyingServer, of: tuple[type, ...]) -> list[type]:
    """Return the message types that the mode has."""
    return [kind for kind in of if server.params.is_signed or "Consistency" not in kind.__name__]


@pytest.fixture(
    params=[(mode, graph) for mode in (CURIOUS, *LYING) for graph in GRAPHS], ids=lambda p: f"{p[0].value} {p[1]}"
)
def params(request):
    return params_of(*request.param)


@pytest.mark.parametrize("disguise", [False, True], ids=["as it was", "under this session's id"])
def test_a_server_message_of_an_earlier_session_is_refused_or_harmless(params, disguise):
    old = LyingServer(params, nonce=b"earlier", seed="7")
    old.conclude()
    for kind in kinds(old, FROM_SERVER):
        server = LyingServer(params)
        letters = server.until(kind)
        replayed = old.told[kind][ALICE]
        letters[ALICE] = replace(replayed, session_id=server.session_id) if disguise else replayed
        server.deliver(letters)
        if not disguise:
            server.assert_refused(ALICE, Rule.WRONG_SESSION)
        server.conclude()
        assert isinstance(server.end, Completed)
        server.assert_exact()
        assert_hidden(server)


@pytest.mark.parametrize("disguise", [False, True], ids=["as it was", "under this session's id"])
def test_a_client_message_of_an_earlier_session_costs_its_sender_alone(params, disguise):
    old = LyingServer(params, nonce=b"earlier", seed="7")
    old.conclude()
    for kind in kinds(old, FROM_CLIENT):

        def uplink(client_id, message, kind=kind):
            if client_id != ALICE or not isinstance(message, kind):
                return (message,)
            replayed = old.sent[kind][ALICE]
            return (replace(replayed, session_id=message.session_id) if disguise else replayed,)

        server = LyingServer(params, uplink=uplink)
        server.conclude()
        assert_hidden(server)
        if not disguise:
            assert server.dropped[ALICE].reason is DropReason.WRONG_SESSION
        if disguise and kind is MaskedInput:
            # Only the client knows its right masked input: a wrong one counts as a wrong input.
            assert isinstance(server.end, Completed)
            continue
        if isinstance(server.end, Completed):
            server.assert_exact()
            continue
        # Unsigned keys under this session's id are accepted; their sender cannot continue with them, and is alone.
        assert isinstance(server.end, Aborted)


def test_messages_of_another_round_are_refused_in_every_round(params):
    full = LyingServer(params)
    full.conclude()
    for due in kinds(full, FROM_SERVER):
        for sent in set(kinds(full, FROM_SERVER)) - {due}:
            server = LyingServer(params)
            letters = server.until(due)
            letters[ALICE] = full.told[sent][ALICE]
            server.deliver(letters)
            server.assert_refused(ALICE, Rule.UNEXPECTED_MESSAGE, Rule.REPEATED_REQUEST, Rule.SURVIVORS_CHANGED)
            server.conclude()
            server.assert_exact()
            assert_hidden(server)


def test_a_clients_messages_sent_back_to_it_are_refused(params):
    full = LyingServer(params)
    full.conclude()
    for kind in kinds(full, FROM_CLIENT):
        server = LyingServer(params)
        server.until(PeerKeys)
        server.tell(ALICE, encode(full.sent[kind][ALICE], params))
        assert isinstance(server.refused[ALICE], CodecError)


def test_the_servers_messages_sent_back_to_it_drop_their_sender(params):
    full = LyingServer(params)
    full.conclude()
    for kind in kinds(full, FROM_SERVER):
        server = LyingServer(params)
        server.until(PeerKeys)
        server.forward(ALICE, encode(full.told[kind][ALICE], params))
        assert server.dropped[ALICE].reason is DropReason.MALFORMED


def test_another_clients_message_is_refused_or_harmless(params):
    """A ring neighbour's message arrives instead of one's own; on the complete graph some are the same for all."""
    for kind in kinds(LyingServer(params), FROM_SERVER):
        server = LyingServer(params)
        letters = server.until(kind)
        letters[ALICE] = letters[2]
        server.deliver(letters)
        server.conclude()
        if isinstance(server.end, Completed):
            server.assert_exact()
        else:
            # With another's list of keys she shares with clients who do not expect it, and is lost with her mask key.
            assert kind is PeerKeys
            assert server.end.owners == (ALICE,)
        assert_hidden(server)


# --- The same nonce and context again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_absent_client_can_be_listed_but_signs_no_view(graph):
    """An old advertisement under the same nonce and context looks valid, but nobody holds its secret any more.

    That is why an application must not use a nonce twice; if it does, only the signatures of the views protect it.
    """
    ghost = 4
    old = LyingServer(params_of(graph=graph), seed="old")
    old.start()

    def uplink(client_id, message):
        return (old.sent[AdvertiseKeys][ghost],) if (client_id, type(message)) == (ghost, AdvertiseKeys) else (message,)

    server = LyingServer(params_of(graph=graph), uplink=uplink)
    assert server.session_id == old.session_id
    server.conclude()
    # The client itself sees keys that it did not advertise, and leaves; to the others it has vanished.
    server.assert_refused(ghost, Rule.KEYS_OF_SELF_CHANGED)
    server.assert_exact(set(server.inputs) - {ghost})
    assert ghost not in server.sent[ConsistencyCheck]
    assert_hidden(server)


def test_ghosts_cannot_fill_up_a_quorum():
    """Three of seven clients are ghosts, by replayed advertisements; the four real ones are below the five needed."""
    ghosts = {4, 5, 6}
    old = LyingServer(params_of(), seed="old")
    old.conclude()
    server = LyingServer(params_of())
    server.start()
    present = [client_id for client_id in server.inputs if client_id not in ghosts]
    said = {i: (old if i in ghosts else server).sent[AdvertiseKeys][i] for i in server.inputs}
    for client_id in present:
        server.tell(client_id, peer_keys(server, said))
    for client_id in present:
        # The ghosts' shares are those of the old session: encrypted for keys that nobody has any more.
        items = [
            (old if sender in ghosts else server).sent[ShareKeys][sender].encrypted_shares
            for sender in server.inputs
            if sender != client_id
        ]
        at = [client_id - (client_id > sender) for sender in server.inputs if sender != client_id]
        shares = b"".join(item[52 * place : 52 * (place + 1)] for item, place in zip(items, at, strict=True))
        server.tell(client_id, PeerShares(server.session_id, (True,) * 7, shares))
    # Four real shares authenticate, and a quorum of five is needed: they end here, before any input is sent.
    for client_id in present:
        server.assert_refused(client_id, Rule.TOO_FEW_VALID_SHARES)
        assert set(server.refused[client_id].culprits) == ghosts
    assert MaskedInput not in server.sent
    assert_hidden(server)


def test_old_signatures_of_views_do_not_count_for_the_same_nonce_again():
    """The keys are new in any case, and a view covers them."""
    old = LyingServer(params_of(MALICIOUS), seed="old")
    old.conclude()
    server = LyingServer(params_of(MALICIOUS))
    server.until(ConsistencyProof)
    signatures = {peer: said.signature for peer, said in old.sent[ConsistencyCheck].items()}
    server.tell(ALICE, consistency_proof(server, ALICE, set(server.inputs), signatures))
    server.assert_refused(ALICE, Rule.TOO_FEW_SIGNATURES)


# --- Different models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("mode", [CURIOUS, *LYING], ids=lambda mode: mode.value)
def test_a_client_that_was_given_another_model_is_left_out_of_the_sum(mode, graph):
    server = LyingServer(params_of(mode, graph), contexts={ALICE: b"a model for Alice alone"})
    server.conclude()
    assert server.dropped[ALICE].reason is DropReason.WRONG_SESSION
    server.assert_exact(set(server.inputs) - {ALICE})
    assert_hidden(server)


@pytest.mark.parametrize("mode", [CURIOUS, *LYING], ids=lambda mode: mode.value)
def test_a_server_that_pretends_that_all_models_are_one_gets_no_answer(mode):
    """It renames the sessions in both directions; the keys and signatures do not follow."""
    alices = LyingServer(params_of(mode), context=b"a model for Alice alone")

    def uplink(client_id, message):
        return (replace(message, session_id=server.session_id),)

    server = LyingServer(params_of(mode), contexts={ALICE: b"a model for Alice alone"}, uplink=uplink)
    end = server.conclude(lambda i, message: replace(message, session_id=alices.session_id) if i == ALICE else message)
    if server.params.is_signed:
        assert server.dropped[ALICE].reason is DropReason.INVALID_SIGNATURE
        server.assert_exact(set(server.inputs) - {ALICE})
    else:
        # Her shares are sealed for her session, so nobody can open them; and she can open nobody's, and leaves.
        server.assert_refused(ALICE, Rule.TOO_FEW_VALID_SHARES)
        assert ALICE not in server.sent[MaskedInput]
        assert isinstance(end, Aborted)
        assert end.owners == (ALICE,)
    assert_hidden(server)
