"""Lies about keys: keys that are not a client's, one client twice, unknown clients, invalid points."""

import hashlib
from dataclasses import replace

import pytest

from secagg import CodecError, Completed, DropReason, Identity, Rule, statements
from secagg.messages import AdvertiseKeys, PeerKeys, UnmaskingShares
from secagg.primitives import signing
from secagg.primitives.agreement import SecretKey
from tests.adversarial.adversary import CURIOUS, GRAPHS, LYING, MALICIOUS, LyingServer, params_of
from tests.adversarial.forgeries import peer_keys, with_key_of
from tests.adversarial.knowledge import Knowledge, assert_hidden
from tests.secagg.machines import BAD_POINTS
from tests.support.sessions import identity_of

ALICE, BOB = 1, 2

SERVERS_OWN = Identity(hashlib.sha256(b"the server's own").digest())


def own_key(seed: int) -> SecretKey:
    return SecretKey(hashlib.sha256(f"server/{seed}".encode()).digest())


def advertisement(server: LyingServer, client_id: int, identity: Identity = SERVERS_OWN) -> AdvertiseKeys:
    """Return keys that the server made, passed off as this client's and signed with an identity that it has."""
    keys = own_key(2 * client_id).public_key(), own_key(2 * client_id + 1).public_key()
    statement = statements.advertised_keys(server.session_id, client_id, *keys)
    if not server.params.is_signed:
        return AdvertiseKeys(server.session_id, *keys)
    return AdvertiseKeys(server.session_id, *keys, identity.public_key, identity.sign(statement))


def advertised_to(server: LyingServer, message: PeerKeys) -> dict[int, AdvertiseKeys]:
    return {client_id: server.sent[AdvertiseKeys][client_id] for client_id in message.client_ids}


def a_peer(message: PeerKeys, of: int = ALICE) -> int:
    return next(client_id for client_id in reversed(message.client_ids) if client_id != of)


# --- The server's own keys --------------------------------------------------------------------------------------------


def _all_peers(server, message):
    return {
        client_id: advertisement(server, client_id, _sybil(client_id))
        for client_id in message.client_ids
        if client_id != ALICE
    }


def _with_their_identities(server, message):
    """Use the clients' own identity keys; the signatures cannot be theirs."""
    return {
        client_id: replace(forged, identity_key=identity_of(client_id).public_key)
        for client_id, forged in _all_peers(server, message).items()
    }


def _with_their_signatures(server, message):
    """Use the clients' own signatures, of their own keys."""
    return {
        client_id: replace(
            server.sent[AdvertiseKeys][client_id],
            mask_public_key=forged.mask_public_key,
            channel_public_key=forged.channel_public_key,
        )
        for client_id, forged in _all_peers(server, message).items()
    }


def _swapped(server, message):
    """Swap two clients' whole advertisements."""
    said, first, second = server.sent[AdvertiseKeys], *[i for i in message.client_ids if i != ALICE][:2]
    return {first: said[second], second: said[first]}


def _keys_swapped(server, message):
    """Use the channel key as mask key, and the mask key as channel key."""
    peer = a_peer(message)
    said = server.sent[AdvertiseKeys][peer]
    return {peer: replace(said, channel_public_key=said.mask_public_key, mask_public_key=said.channel_public_key)}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(
    "forge",
    [_all_peers, _with_their_identities, _with_their_signatures, _swapped, _keys_swapped],
    ids=lambda forge: forge.__name__.strip("_").replace("_", " "),
)
def test_keys_that_their_client_did_not_sign_are_refused(graph, forge):
    server = LyingServer(params_of(graph=graph))
    letters = server.until(PeerKeys)
    letters[ALICE] = peer_keys(server, advertised_to(server, letters[ALICE]) | forge(server, letters[ALICE]))
    server.deliver(letters)
    server.assert_refused(ALICE, Rule.INVALID_SIGNATURE, Rule.IDENTITY_NOT_TRUSTED)
    server.conclude()
    server.assert_exact(set(server.inputs) - {ALICE})
    assert_hidden(server)


@pytest.mark.parametrize("mode", [CURIOUS, LYING[0]], ids=lambda mode: mode.value)
def test_without_identities_a_server_that_plays_all_peers_reads_the_input(mode):
    """Known limit: in the modes without identities the exchange of keys must be honest."""
    server = LyingServer(params_of(mode))
    letters = server.until(PeerKeys)
    forged = {peer: advertisement(server, peer, _sybil(peer)) for peer in letters[ALICE].client_ids if peer != ALICE}
    server.tell(ALICE, peer_keys(server, advertised_to(server, letters[ALICE]) | forged))
    (shares,) = [said for kind, said in server.sent.items() if kind.__name__ == "ShareKeys"]
    assert ALICE in shares, "she has encrypted her shares to the server itself, enough of them for both secrets"


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(
    ("name", "rule"),
    [("identity_keys", Rule.KEYS_OF_SELF_CHANGED), ("mask_public_keys", Rule.KEYS_OF_SELF_CHANGED)],
)
def test_other_keys_for_the_client_itself_are_refused(graph, name, rule):
    server = LyingServer(params_of(graph=graph))
    letters = server.until(PeerKeys)
    letters[ALICE] = with_key_of(letters[ALICE], ALICE, name, own_key(0).public_key())
    server.deliver(letters)
    server.assert_refused(ALICE, rule)
    server.conclude()
    server.assert_exact(set(server.inputs) - {ALICE})


# --- Sybils -----------------------------------------------------------------------------------------------------------


def test_clients_that_nobody_knows_are_refused_although_they_sign():
    server = LyingServer(params_of())
    letters = server.until(PeerKeys)
    strangers = {client_id: advertisement(server, client_id, _sybil(client_id)) for client_id in (100, 101, 102)}
    said = advertised_to(server, letters[ALICE])
    for client_id in (4, 5, 6):
        del said[client_id]
    server.tell(ALICE, peer_keys(server, said | strangers))
    server.assert_refused(ALICE, Rule.IDENTITY_NOT_TRUSTED)
    assert server.refused[ALICE].culprits == (100, 101, 102)


def _sybil(client_id: int) -> Identity:
    return Identity(hashlib.sha256(f"sybil/{client_id}".encode()).digest())


@pytest.mark.parametrize("known", [False, True], ids=["a new id", "another client's id"])
def test_one_identity_under_two_ids_is_refused_by_client_and_server(known):
    server = LyingServer(params_of(), corrupt=(BOB,))
    letters = server.until(PeerKeys)
    twice = 3 if known else 100
    said = advertised_to(server, letters[ALICE]) | {twice: advertisement(server, twice, identity_of(BOB))}
    said.pop(6)
    server.tell(ALICE, peer_keys(server, said))
    server.assert_refused(ALICE, Rule.IDENTITY_NOT_DISTINCT)


def test_a_client_with_two_ids_gets_one_of_them_from_an_honest_server():
    def uplink(client_id, message):
        return (
            (advertisement(server, 3, identity_of(BOB)),)
            if (client_id, type(message)) == (3, AdvertiseKeys)
            else (message,)
        )

    server = LyingServer(params_of(), corrupt=(BOB, 3), uplink=uplink)
    server.conclude()
    assert server.dropped[3].reason is DropReason.IDENTITY_NOT_DISTINCT
    server.assert_exact(set(server.inputs) - {3})
    assert_hidden(server)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("mode", LYING, ids=lambda mode: mode.value)
def test_a_key_that_is_listed_twice_is_refused(mode, graph):
    server = LyingServer(params_of(mode, graph))
    letters = server.until(PeerKeys)
    message = letters[ALICE]
    others = [client_id for client_id in message.client_ids if client_id != ALICE]
    copied = server.sent[AdvertiseKeys][others[0]].mask_public_key
    letters[ALICE] = with_key_of(message, others[1], "mask_public_keys", copied)
    server.deliver(letters)
    server.assert_refused(ALICE, Rule.KEYS_NOT_DISTINCT)
    server.conclude()
    server.assert_exact(set(server.inputs) - {ALICE})
    assert_hidden(server)


# --- Invalid points and keys ------------------------------------------------------------------------------------------

_P = 2**255 - 19
BAD_IDENTITIES = {
    "order 1": 1,
    "order 2": _P - 1,
    "order 4": 0,
    "order 8": 2707385501144840649318225287225658788936804267575313519463743609750303402022,
    "not canonical": _P + 1,
    "order 1 with the sign bit": 1 + 2**255,
    "all ones": 2**256 - 1,
}


@pytest.mark.parametrize("name", ["channel_public_keys", "mask_public_keys"])
@pytest.mark.parametrize("point", BAD_POINTS)
@pytest.mark.parametrize("mode", LYING, ids=lambda mode: mode.value)
def test_a_bad_point_is_refused_with_any_signature(mode, point, name):
    server = LyingServer(params_of(mode), corrupt=(BOB,))
    letters = server.until(PeerKeys)
    bad = replace(server.sent[AdvertiseKeys][BOB], **{name[:-1]: BAD_POINTS[point]})
    if mode is MALICIOUS:
        statement = statements.advertised_keys(server.session_id, BOB, bad.channel_public_key, bad.mask_public_key)
        bad = replace(bad, signature=identity_of(BOB).sign(statement))
    letters[ALICE] = peer_keys(server, advertised_to(server, letters[ALICE]) | {BOB: bad})
    server.deliver(letters)
    server.assert_refused(ALICE, Rule.INVALID_PUBLIC_KEY)
    server.conclude()
    server.assert_exact(set(server.inputs) - {ALICE})
    assert_hidden(server)


@pytest.mark.parametrize("key", BAD_IDENTITIES)
def test_an_identity_key_that_anyone_can_sign_for_is_refused(key):
    server = LyingServer(params_of())
    letters = server.until(PeerKeys)
    encoded = BAD_IDENTITIES[key].to_bytes(32, "little")
    # For a key of order 1 the signature (R, 0) with R the neutral element verifies for every statement.
    forged = replace(advertisement(server, BOB), identity_key=encoded, signature=(1).to_bytes(32, "little") + bytes(32))
    assert not signing.is_valid_public_key(encoded)
    letters[ALICE] = peer_keys(server, advertised_to(server, letters[ALICE]) | {BOB: forged})
    server.deliver(letters)
    server.assert_refused(ALICE, Rule.INVALID_SIGNATURE)
    server.conclude()
    server.assert_exact(set(server.inputs) - {ALICE})


# --- Missing signatures -----------------------------------------------------------------------------------------------


def test_messages_without_signatures_are_refused_in_malicious_mode():
    server = LyingServer(params_of())
    letters = server.until(PeerKeys)
    letters[ALICE] = replace(letters[ALICE], identity_keys=b"", signatures=b"")
    server.deliver(letters)
    assert isinstance(server.refused[ALICE], CodecError)
    server.conclude()
    server.assert_exact(set(server.inputs) - {ALICE})


def test_a_server_that_runs_the_weaker_mode_talks_of_another_session():
    """A downgrade: the server's parameters say honest-but-curious, Alice's say malicious."""
    server, weaker = LyingServer(params_of()), LyingServer(params_of(CURIOUS))
    assert server.session_id != weaker.session_id
    server.start()
    letters = weaker.until(PeerKeys)
    server.tell(ALICE, letters[ALICE])
    assert isinstance(server.refused[ALICE], CodecError)
    weaker.forward(ALICE, server.sent[AdvertiseKeys][ALICE])
    assert weaker.dropped[ALICE].reason in (DropReason.MALFORMED, DropReason.UNEXPECTED_MESSAGE)


def test_a_server_that_shows_some_clients_the_weaker_mode_gets_no_answer_from_them():
    server = LyingServer(params_of())
    letters = server.until(PeerKeys)
    letters[ALICE] = replace(letters[ALICE], session_id=LyingServer(params_of(CURIOUS)).session_id)
    server.deliver(letters)
    server.assert_refused(ALICE, Rule.WRONG_SESSION)
    server.conclude()
    server.assert_exact(set(server.inputs) - {ALICE})


def test_a_client_whose_keys_the_server_changes_for_all_is_out_and_nothing_is_learned():
    """The server replaces Bob's mask key for all others: nobody accepts the list."""
    server = LyingServer(params_of())
    letters = server.until(PeerKeys)
    key = own_key(7)
    server.deliver(
        {
            client_id: message if client_id == BOB else with_key_of(message, BOB, "mask_public_keys", key.public_key())
            for client_id, message in letters.items()
        }
    )
    for client_id in set(server.inputs) - {BOB}:
        server.assert_refused(client_id, Rule.INVALID_SIGNATURE)
    server.conclude()
    assert not isinstance(server.end, Completed)
    assert UnmaskingShares not in server.sent
    assert_hidden(server, own_keys=[key])
    assert Knowledge(server, [key]).sums() == {}
