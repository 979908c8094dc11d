"""The limits of what a client accepts, and its reaction to invalid shares."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secagg import ClientPhase, InputRequested
from secagg.messages import ConsistencyProof, MaskedInput, PeerKeys, PeerShares, SurvivorList, UnmaskingShares
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests import reference
from tests.secagg.client_cases import (
    OTHERS,
    keep,
    signed_by,
    split,
    with_bad_signatures,
    with_damaged_shares,
    with_survivors,
)
from tests.secagg.machines import ALICE, MALICIOUS, MODES, Halt, Script, numbers_of, script
from tests.support.sessions import Cohort, make_params, random_inputs

each_mode = pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)


@each_mode
@pytest.mark.parametrize("num_peers", [3, 4, 5])
def test_as_many_peers_as_the_threshold_are_enough(adversary, num_peers):
    client, _ = script(adversary).client(ClientPhase.ADVERTISED, ALICE)
    (event,) = client.receive(keep(*range(num_peers))(script(adversary).message(PeerKeys, ALICE)))
    assert len(event.message.encrypted_shares) == (num_peers - 1) * ENCRYPTED_SHARES_BYTES


def test_shares_that_do_not_authenticate_are_named_and_survived():
    """Two of four shares are damaged; with its own share the client still holds the three that it needs."""
    client, _ = script().client(ClientPhase.SHARED_KEYS, ALICE)
    (event,) = client.receive(with_damaged_shares(0, 3)(script().message(PeerShares, ALICE)))
    assert event == InputRequested(rejected_shares=(3, 2**32 - 1))
    client.submit_input(script().inputs[ALICE])
    (answer,) = client.receive(with_survivors(0, 1, 3, 4)(script().message(SurvivorList, ALICE)))
    assert answer.message.held == (False, True, True, True, False)


@each_mode
@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 1, 2, 0)], ids=["two neighbours swapped", "the ends swapped"])
def test_shares_of_one_sender_are_not_taken_for_anothers(adversary, order):
    client, _ = script(adversary).client(ClientPhase.SHARED_KEYS, ALICE)
    message = script(adversary).message(PeerShares, ALICE)
    items = split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES)
    (event,) = client.receive(replace(message, encrypted_shares=b"".join(items[place] for place in order)))
    assert event.rejected_shares == tuple(OTHERS[number] for number in range(4) if order[number] != number)


@each_mode
def test_shares_meant_for_another_receiver_are_rejected(adversary):
    client, _ = script(adversary).client(ClientPhase.SHARED_KEYS, ALICE)
    own, other = (script(adversary).message(PeerShares, client_id) for client_id in (ALICE, 2**31))
    own_items, other_items = (split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES) for message in (own, other))
    # Both lists begin with the shares from client 3, to ALICE and to the other client.
    mixed = b"".join([other_items[0], *own_items[1:]])
    (event,) = client.receive(replace(own, encrypted_shares=mixed))
    assert event.rejected_shares == (3,)


@each_mode
def test_own_shares_sent_back_as_a_peers_are_rejected(adversary):
    """Each direction of a channel has its own key: the server cannot reflect a client's shares."""
    client, _ = script(adversary).client(ClientPhase.SHARED_KEYS, ALICE)
    message = script(adversary).message(PeerShares, ALICE)
    sent = (
        script(adversary).client(ClientPhase.ADVERTISED, ALICE)[0].receive(script(adversary).message(PeerKeys, ALICE))
    )
    reflected = sent[0].message.encrypted_shares[:ENCRYPTED_SHARES_BYTES]
    mixed = reflected + message.encrypted_shares[ENCRYPTED_SHARES_BYTES:]
    (event,) = client.receive(replace(message, encrypted_shares=mixed))
    assert event.rejected_shares == (3,)


@each_mode
def test_shares_outside_the_field_are_rejected_even_if_they_authenticate(adversary):
    """A malicious peer encrypts limbs of 0xffff: they are not field elements, so they are not shares."""
    recorded = script(adversary)
    alice, sender = (
        reference.Client(numbers_of(recorded.params), recorded.session_id, client_id, recorded.entropy[client_id].draws)
        for client_id in (ALICE, 3)
    )
    bound = b"secagg/1 encrypted shares" + recorded.session_id + reference.id_bytes(3, ALICE)
    key, _ = sender.channel_keys(ALICE, alice.channel_public_key)
    forged = AESGCM(key).encrypt(bytes(12), b"\xff" * 36, bound)
    client, _ = recorded.client(ClientPhase.SHARED_KEYS, ALICE)
    message = recorded.message(PeerShares, ALICE)
    mixed = forged + message.encrypted_shares[ENCRYPTED_SHARES_BYTES:]
    (event,) = client.receive(replace(message, encrypted_shares=mixed))
    assert event.rejected_shares == (3,)


def test_a_message_type_has_room_for_one_share_of_a_peer():
    """Pads are shares of noise seeds, which unmask nothing."""
    names = [field.name for field in dataclasses.fields(UnmaskingShares)]
    assert names == ["session_id", "held", "shares", "pairwise_keys", "noise_pads"]


def test_two_sessions_that_differ_in_context_share_no_mask():
    """The same clients with the same randomness send different messages throughout."""
    params = make_params(3, 2, vector_length=64, value_bits=8)
    inputs = random_inputs(params, seed=1)
    first, second = (Script(params, inputs, {}, seed="same") for _ in range(2))
    assert first.message(MaskedInput, 0) == second.message(MaskedInput, 0)
    other = Cohort(params, inputs, context=b"another model", entropy_seed="same").run()
    changed = other.sent[MaskedInput][0].masked_input
    assert np.count_nonzero(changed == second.message(MaskedInput, 0).masked_input) < 8


# --- Signatures of the survivors -------------------------------------------------------------------------------------


def answer_to(proof: ConsistencyProof):
    client = Halt(MALICIOUS, ClientPhase.SURVIVORS_SIGNED).client()
    (event,) = client.receive(proof)
    assert client.phase is ClientPhase.FINISHED
    return event.message


@pytest.mark.parametrize("places", [(0, 1, 3, 4), (0, 1, 3), (1, 3, 4)], ids=str)
def test_as_many_signatures_as_the_threshold_are_enough(places):
    """The client's own signature counts; a client that did not sign has still survived."""
    expected = script(MALICIOUS).message(UnmaskingShares, ALICE)
    assert answer_to(signed_by(*places)(script(MALICIOUS).message(ConsistencyProof, ALICE))) == expected


@pytest.mark.parametrize("number", range(3))
def test_one_bad_signature_above_the_threshold_is_not_counted(number):
    """One client must not be able to end everybody's session: three good signatures are a quorum without its own."""
    expected = script(MALICIOUS).message(UnmaskingShares, ALICE)
    assert answer_to(with_bad_signatures(number)(script(MALICIOUS).message(ConsistencyProof, ALICE))) == expected
