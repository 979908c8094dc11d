"""Lies about shares: during transport, by their dealers, and by the clients that return them."""

from dataclasses import replace

import numpy as np
import pytest

from secagg import Aborted, AbortReason, Completed, Rule, ShareFault, sharing
from secagg._client.neighborhood import split
from secagg.algebra import ring
from secagg.algebra.field import PRIME
from secagg.masking import Mask, accumulate
from secagg.messages import AdvertiseKeys, MaskedInput, PeerKeys, PeerShares, ShareKeys, UnmaskingShares
from secagg.primitives.agreement import SecretKey
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS
from tests.adversarial.adversary import CURIOUS, GRAPHS, MALICIOUS, LyingServer, params_of
from tests.adversarial.knowledge import assert_hidden

ALICE, MALLORY = 1, 2


@pytest.fixture(
    params=[(mode, graph) for mode in (CURIOUS, MALICIOUS) for graph in GRAPHS], ids=lambda p: f"{p[0].value} {p[1]}"
)
def params(request):
    return params_of(*request.param)


def ciphertexts(message) -> list[bytes]:
    return split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES)


def with_items(message, items: list[bytes]):
    return replace(message, encrypted_shares=b"".join(items))


# --- During transport -------------------------------------------------------------------------------------------------


def _swapped(server, items):
    return [items[1], items[0], *items[2:]]


def _wrong_sender(server, items):
    return [items[1], *items[1:]]


def _wrong_receiver(server, items):
    """Deliver the shares that the first peer sealed for another client."""
    sender = next(peer for peer in server.told[PeerKeys][ALICE].client_ids if peer != ALICE)
    receivers = [peer for peer in server.told[PeerKeys][sender].client_ids if peer != sender]
    other = next(place for place, peer in enumerate(receivers) if peer != ALICE)
    return [ciphertexts(server.sent[ShareKeys][sender])[other], *items[1:]]


def _sent_back(server, items):
    """Return Alice's own shares for the peer, as if the peer had sent them."""
    return [ciphertexts(server.sent[ShareKeys][ALICE])[0], *items[1:]]


def _garbage(server, items):
    return [bytes(ENCRYPTED_SHARES_BYTES), *items[1:]]


def _one_bit(server, items):
    return [items[0][:-1] + bytes([items[0][-1] ^ 1]), *items[1:]]


@pytest.mark.parametrize("lie", [_swapped, _wrong_sender, _wrong_receiver, _sent_back, _garbage, _one_bit])
def test_shares_that_are_rerouted_are_rejected_and_made_up_for(params, lie):
    server = LyingServer(params)
    letters = server.until(PeerShares)
    letters[ALICE] = with_items(letters[ALICE], lie(server, ciphertexts(letters[ALICE])))
    server.deliver(letters)
    server.conclude()
    server.assert_exact(server.inputs)
    assert ALICE in server.sent[UnmaskingShares]
    assert not all(server.sent[UnmaskingShares][ALICE].held)
    assert all(dispute.fault is ShareFault.MISSING for dispute in server.disputed.disputes)
    assert {dispute.holder for dispute in server.disputed.disputes} == {ALICE}
    assert_hidden(server)


def test_a_client_continues_with_a_threshold_of_shares_and_not_with_fewer(params):
    for spared in (0, 1):
        server = LyingServer(params)
        letters = server.until(PeerShares)
        items = ciphertexts(letters[ALICE])
        good = params.threshold - params.is_complete - spared
        bad = len(items) - good
        letters[ALICE] = with_items(letters[ALICE], [bytes(ENCRYPTED_SHARES_BYTES)] * bad + items[bad:])
        server.deliver(letters)
        if spared:
            server.assert_refused(ALICE, Rule.TOO_FEW_VALID_SHARES)
            assert ALICE not in server.sent[MaskedInput]
        server.conclude()
        server.assert_exact(set(server.inputs) - ({ALICE} if spared else set()))
        assert_hidden(server)


def test_garbage_for_everyone_ends_the_session_with_nothing_sent(params):
    server = LyingServer(params)
    letters = server.until(PeerShares)
    server.deliver(
        {i: replace(letter, encrypted_shares=bytes(len(letter.encrypted_shares))) for i, letter in letters.items()}
    )
    for client_id in server.inputs:
        server.assert_refused(client_id, Rule.TOO_FEW_VALID_SHARES)
    assert isinstance(server.conclude(), Aborted)
    assert MaskedInput not in server.sent
    assert_hidden(server)


# --- By dealers -------------------------------------------------------------------------------------------------------


class Dealer:
    """An uplink on which ``deal`` changes Mallory's shares, (receivers, 2, LIMBS), and commitment."""

    def __init__(self, deal) -> None:
        self.deal = deal
        self.server: LyingServer

    def __call__(self, client_id, message):
        if client_id != MALLORY or not isinstance(message, ShareKeys):
            return (message,)
        server = self.server
        receivers = [peer for peer in server.told[PeerKeys][MALLORY].client_ids if peer != MALLORY]
        key = SecretKey(server.entropy[MALLORY].draws[0])
        channels, shares = [], []
        for receiver, item in zip(receivers, ciphertexts(message), strict=True):
            public_key = server.sent[AdvertiseKeys][receiver].channel_public_key
            channels.append(sharing.ShareChannel.agree(key, public_key, server.session_id, MALLORY, receiver))
            theirs = SecretKey(server.entropy[receiver].draws[0])
            own_key = server.sent[AdvertiseKeys][MALLORY].channel_public_key
            opening = sharing.ShareChannel.agree(theirs, own_key, server.session_id, receiver, MALLORY)
            shares.append(sharing.open_shares(opening.receive_key, item, server.session_id, MALLORY, receiver))
        dealt, commitment = self.deal(np.stack(shares).astype(np.uint32), message.seed_commitment)
        sealed = [
            channel.seal_shares(dealt[at].astype(">u2").tobytes(), server.session_id, MALLORY, receiver)
            for at, (channel, receiver) in enumerate(zip(channels, receivers, strict=True))
        ]
        return (replace(with_items(message, sealed), seed_commitment=commitment),)


def dealt_by_mallory(params, deal, **options) -> LyingServer:
    dealer = Dealer(deal)
    loses = options.pop("vanishes", False)

    def uplink(client_id, message):
        return () if loses and client_id == MALLORY and isinstance(message, MaskedInput) else dealer(client_id, message)

    dealer.server = server = LyingServer(params, corrupt=(MALLORY,), uplink=uplink)
    server.conclude()
    return server


def _wrong_for(number: int):
    def deal(shares, commitment):
        shares[:number] = (shares[:number] + 1) % PRIME
        return shares, commitment

    return deal


@pytest.mark.parametrize("vanishes", [False, True])
def test_a_dealer_of_one_wrong_share_changes_nothing(params, vanishes):
    server = dealt_by_mallory(params, _wrong_for(1), vanishes=vanishes)
    if isinstance(server.end, Completed):
        server.assert_exact(set(server.inputs) - ({MALLORY} if vanishes else set()))
        assert {dispute.owner for dispute in server.disputed.disputes} == {MALLORY}
    else:
        assert server.end.owners == (MALLORY,)
    assert_hidden(server)


@pytest.mark.parametrize("vanishes", [False, True])
def test_a_dealer_of_too_many_wrong_shares_ends_the_session_and_never_makes_a_wrong_sum(params, vanishes):
    server = dealt_by_mallory(params, _wrong_for(3), vanishes=vanishes)
    assert isinstance(server.end, Aborted)
    assert server.end.reason is AbortReason.INVALID_SHARES
    assert server.end.owners == (MALLORY,)
    assert_hidden(server)


@pytest.mark.parametrize("vanishes", [False, True])
def test_a_dealer_of_another_seed_than_it_committed_itself_to_is_named(params, vanishes):
    """All its shares agree with each other: a constant added to each is added to the secret."""

    def deal(shares, commitment):
        return (shares + 1) % PRIME, commitment

    server = dealt_by_mallory(params, deal, vanishes=vanishes)
    assert isinstance(server.end, Aborted)
    assert server.end.reason is AbortReason.INVALID_SHARES
    assert server.end.owners == (MALLORY,)
    if not params.is_complete:
        # On the complete graph Mallory keeps its own share, which is not moved with the others here.
        assert server.end.culprits == (MALLORY,)
    assert_hidden(server)


def test_a_wrong_commitment_ends_the_session_and_names_the_dealer(params):
    server = dealt_by_mallory(params, lambda shares, commitment: (shares, bytes(32)))
    assert isinstance(server.end, Aborted)
    assert (server.end.reason, server.end.owners, server.end.culprits) == (
        AbortReason.INVALID_SHARES,
        (MALLORY,),
        (MALLORY,),
    )
    assert_hidden(server)


def test_dealt_shares_outside_the_field_are_rejected_and_made_up_for(params):
    def deal(shares, commitment):
        shares[0, 1, LIMBS - 1] = PRIME
        return shares, commitment

    server = dealt_by_mallory(params, deal)
    server.assert_exact(server.inputs)
    (dispute,) = server.disputed.disputes
    assert (dispute.owner, dispute.fault) == (MALLORY, ShareFault.MISSING)
    assert_hidden(server)


# --- By the clients that return them ----------------------------------------------------------------------------------


def returned(params, liars, change) -> LyingServer:
    def uplink(client_id, message):
        if client_id not in liars or not isinstance(message, UnmaskingShares):
            return (message,)
        return (replace(message, shares=change(message.shares.copy())),)

    server = LyingServer(params, corrupt=liars, uplink=uplink)
    server.conclude()
    return server


def _all_limbs(shares):
    return (shares.astype(np.uint32) + 1) % PRIME


def _one_limb(shares):
    shares[:, 4] = (shares[:, 4].astype(np.uint32) + 1) % PRIME
    return shares


def _shifted_rows(shares):
    """Return the shares of another secret in each row."""
    return np.roll(shares, 1, axis=0)


@pytest.mark.parametrize("change", [_all_limbs, _one_limb, _shifted_rows])
def test_wrong_shares_by_as_many_as_can_be_corrected_are_corrected_and_named(params, change):
    # There are 7 - 5 and 6 - 4 shares more than needed: one error can be found in each.
    server = returned(params, (MALLORY,), lambda shares: change(shares).astype(np.uint16))
    server.assert_exact(server.inputs)
    assert server.end.culprits == (MALLORY,)
    assert {dispute.holder for dispute in server.disputed.disputes} == {MALLORY}
    assert_hidden(server)


@pytest.mark.parametrize("change", [_all_limbs, _one_limb, _shifted_rows])
@pytest.mark.parametrize("number", [2, 3])
def test_wrong_shares_by_more_end_the_session_or_are_found_and_never_make_a_wrong_sum(params, change, number):
    liars = tuple(range(2, 2 + number))
    server = returned(params, liars, lambda shares: change(shares).astype(np.uint16))
    if isinstance(server.end, Completed):
        # On a sparse graph not every secret has all liars as holders.
        server.assert_exact(server.inputs)
        assert set(server.end.culprits) <= set(liars)
    else:
        assert server.end.reason is AbortReason.INVALID_SHARES
        assert number > 1
    if params.is_complete:
        assert isinstance(server.end, Aborted)


@pytest.mark.parametrize(("mode", "graph"), [*((CURIOUS, graph) for graph in GRAPHS), (MALICIOUS, "complete")])
def test_a_wrong_pairwise_key_does_what_a_wrong_input_of_its_client_would_do(mode, graph):
    """Nobody is named for it: the server takes the key instead of computing it."""
    params, wrong = params_of(mode, graph), bytes(range(16))

    def vanished():
        return next(i for i in server.told[PeerKeys][MALLORY].client_ids if i != MALLORY)

    def uplink(client_id, message):
        if isinstance(message, MaskedInput) and client_id == vanished():
            return ()
        if client_id == MALLORY and isinstance(message, UnmaskingShares):
            right.append(message.pairwise_keys)
            return (replace(message, pairwise_keys=wrong),)
        return (message,)

    right: list[bytes] = []
    server = LyingServer(params, corrupt=(MALLORY,), uplink=uplink)
    server.conclude()
    assert isinstance(server.end, Completed)
    assert server.end.culprits == ()
    spoilt = ring.zeros(params.vector_length, params.ring_bits)
    subtracts = vanished() < MALLORY
    accumulate(spoilt, [Mask(right[0], subtract=subtracts), Mask(wrong, subtract=not subtracts)])
    expected = (np.array(server.true_sum(server.end.included), dtype=object) + spoilt) % params.modulus
    assert server.end.sum.tolist() == expected.tolist()
    assert_hidden(server)


def test_pairwise_keys_replace_no_share():
    """A mask key that shares do not give back ends the session, although each survivor handed over its pairwise key."""
    params = params_of(CURIOUS, "complete")

    def uplink(client_id, message):
        if isinstance(message, MaskedInput) and client_id == MALLORY:
            return ()
        if not isinstance(message, UnmaskingShares):
            return (message,)
        assert len(message.pairwise_keys) == 16
        place = server.told[PeerKeys][client_id].client_ids.index(MALLORY)
        held = tuple(held and at != place for at, held in enumerate(message.held))
        return (replace(message, held=held, shares=np.delete(message.shares, place, axis=0)),)

    server = LyingServer(params, uplink=uplink)
    server.conclude()
    assert isinstance(server.end, Aborted)
    assert server.end.reason is AbortReason.TOO_FEW_SHARES
    assert server.end.owners == (MALLORY,)
    assert server.end.had == 0


def test_shares_outside_the_field_are_refused_by_the_codec(params):
    def uplink(client_id, message):
        if client_id != MALLORY or not isinstance(message, UnmaskingShares):
            return (message,)
        shares = message.shares.copy()
        shares[0, 0] = PRIME
        return (replace(message, shares=shares),)

    server = LyingServer(params, uplink=uplink)
    server.conclude()
    server.assert_exact(server.inputs)
    assert MALLORY in server.dropped
    assert_hidden(server)
