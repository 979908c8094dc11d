"""Noise components: which are taken off, whose seeds the server learns, and what wrong shares do."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import (
    Aborted,
    AbortReason,
    Adversary,
    Client,
    ClientPhase,
    Completed,
    DropReason,
    LocalProtocolError,
    ServerPhase,
    noise,
)
from secagg.algebra.field import PRIME
from secagg.messages import PeerShares, ShareKeys, UnmaskingShares
from secagg.sharing import SHARE_BYTES, shares_from_bytes, shares_to_bytes
from tests import reference
from tests.secagg.machines import ALICE, HONEST, MODES, VANISHED, noisy_script, numbers_of
from tests.secagg.object_graph import secrets_in
from tests.support.sessions import BEFORE_INPUT, BEFORE_UNMASKING, Cohort, make_params, random_inputs

PARAMS = make_params(7, 4, noise_components=3, corrupt_clients=0)
INPUTS = random_inputs(PARAMS, seed=51)
each_mode = pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)


@st.composite
def noisy_parameters(draw):
    num_clients = draw(st.integers(3, 2000))
    threshold = draw(st.integers(2, num_clients - 1))
    corrupt = draw(st.integers(0, threshold - 1))
    components = draw(st.integers(1, 16))
    return make_params(num_clients, threshold, noise_components=components, corrupt_clients=corrupt)


# --- Which components ------------------------------------------------------------------------------------------------


@given(noisy_parameters(), st.data())
def test_what_stays_is_enough_for_the_honest_survivors_and_less_than_a_step_too_much(params, data):
    """The whole noise of a client is 1/(t - A) of what a sum needs, the base 1/(n - A)."""
    n, t, corrupt = params.num_clients, params.threshold, params.corrupt_clients
    survivors = data.draw(st.integers(t, n))
    removed = noise.removed_components(params, survivors)
    assert list(removed) == reference.removed_components(numbers_of(params), survivors)
    weights = 2**params.noise_components - 1
    step = (Fraction(1, t - corrupt) - Fraction(1, n - corrupt)) / weights
    kept = Fraction(1, n - corrupt) + step * (weights - sum(2 ** (component - 1) for component in removed))
    assert 1 <= kept * (survivors - corrupt) < 1 + step * (survivors - corrupt)


@given(noisy_parameters())
def test_all_components_go_if_nobody_vanishes_and_none_at_the_threshold(params):
    assert noise.removed_components(params, params.num_clients) == tuple(range(1, params.noise_components + 1))
    assert noise.removed_components(params, params.threshold) == ()


def test_a_session_without_components_takes_nothing_off():
    assert noise.removed_components(make_params(5, 3), 4) == ()


# --- Shares ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 6), st.integers(0, 5), st.integers(1, 4), st.integers(0, 1000))
def test_any_threshold_of_shares_gives_the_seed_and_one_less_fits_every_seed(threshold, more, components, seed):
    rng = np.random.default_rng(seed)
    holders = threshold + more
    pads = rng.integers(0, PRIME, (holders, components, 9)).astype(np.uint16)
    seeds = [rng.bytes(16) for _ in range(components)]
    corrections = noise.corrections(seeds, pads, threshold)
    shares = pads.copy()
    shares[threshold - 1 :] = noise.add(pads[threshold - 1 :], corrections)
    chosen = rng.choice(holders, threshold, replace=False)
    for component in range(components):
        given_back = [(int(place), shares[place, component].tolist()) for place in chosen]
        assert reference.reconstruct_seed(given_back) == seeds[component]
    # For any other seeds there are pads with which whoever knows t - 1 shares sees the same: each limb's polynomial
    # through those shares and the other seed gives all further shares, and these less the corrections are the pads.
    known = chosen[1:]
    others = [rng.bytes(16) for _ in range(components)]
    other_pads = np.empty_like(pads)
    for component, limb in np.ndindex(components, 9):
        own = (0, reference.seed_to_limbs(others[component])[limb])
        points = [own, *((int(place) + 1, int(shares[place, component, limb])) for place in known)]
        for place in range(holders):
            share = (
                reference.interpolate_at_zero([(x - place - 1, y) for x, y in points])
                if place not in known
                else (int(shares[place, component, limb]))
            )
            other_pads[place, component, limb] = share
    other_pads[threshold - 1 :] = noise.subtract(other_pads[threshold - 1 :], corrections)
    assert np.array_equal(other_pads[known], pads[known])
    assert np.array_equal(noise.corrections(others, other_pads, threshold), corrections)


# --- Machines --------------------------------------------------------------------------------------------------------


@each_mode
def test_keys_are_given_while_the_input_is_awaited_and_at_no_other_time(adversary):
    script = noisy_script(adversary)
    expected = [value for name, value in script.secrets(ALICE).items() if name.startswith("key of component")]
    for phase in ClientPhase:
        if phase is ClientPhase.SURVIVORS_SIGNED and adversary is HONEST:
            continue
        client, _ = script.client(phase, ALICE)
        if phase is ClientPhase.INPUT_REQUESTED:
            assert list(client.noise_keys()) == list(client.noise_keys()) == expected
            continue
        with pytest.raises(LocalProtocolError, match="noise_keys"):
            client.noise_keys()


def test_a_session_without_components_has_no_keys():
    params = make_params()
    script = Cohort(params, random_inputs(params, seed=1)).run()
    assert set(script.noise_keys.values()) == {()}
    assert script.end.noise_keys == {}


@each_mode
def test_a_client_forgets_what_it_does_not_need_any_more(adversary):
    """The seed goes with the input, the keys of the pads with the answer."""
    script = noisy_script(adversary)
    secrets = {
        name: value for name, value in script.secrets(ALICE).items() if "component" in name or name.startswith("pad ")
    }
    for phase in (ClientPhase.MASKED, ClientPhase.FINISHED):
        client, _ = script.client(phase, ALICE)
        # In the malicious mode the identity is still needed.
        assert secrets_in(secrets, client._state).isdisjoint(secrets)
    client, _ = script.client(ClientPhase.FINISHED, ALICE)
    assert not hasattr(client._state, "pad_keys")


@each_mode
def test_a_client_that_is_moved_all_the_time_releases_the_same(adversary):
    script = noisy_script(adversary)
    moved = Cohort(
        script.params,
        script.inputs,
        {VANISHED: BEFORE_INPUT},
        context=script.context,
        entropy_seed="noisy script",
        suspend=True,
    ).run()
    assert moved.sent[UnmaskingShares] == script.sent[UnmaskingShares]
    assert moved.end == script.end
    assert moved.noise_keys == script.noise_keys


@each_mode
def test_a_survivor_that_vanishes_before_it_answers_costs_nothing(adversary):
    """Its noise is in the sum, and its seeds come from the others."""
    script = noisy_script(adversary)
    gone = Cohort(script.params, script.inputs, {VANISHED: BEFORE_INPUT, ALICE: BEFORE_UNMASKING}).run()
    assert gone.end.included == script.end.included
    assert {component: keys[ALICE] for component, keys in gone.end.noise_keys.items()} == {
        component: gone.noise_keys[ALICE][component - 1] for component in script.end.noise_keys
    }


# --- What the server refuses -----------------------------------------------------------------------------------------


SPOILT = {
    "a pad too few": (UnmaskingShares, "noise_pads", lambda data: data[:-SHARE_BYTES]),
    "a pad too many": (UnmaskingShares, "noise_pads", lambda data: data + data[:SHARE_BYTES]),
    "no pads": (UnmaskingShares, "noise_pads", lambda data: b""),
    "a pad outside the field": (UnmaskingShares, "noise_pads", lambda data: b"\xff\xff" + data[2:]),
    "a correction too few": (ShareKeys, "noise_corrections", lambda data: data[:-SHARE_BYTES]),
    "a correction too many": (ShareKeys, "noise_corrections", lambda data: data + data[:SHARE_BYTES]),
    "a correction outside the field": (ShareKeys, "noise_corrections", lambda data: data[:-2] + b"\xff\xf1"),
    "a commitment too few": (ShareKeys, "noise_commitments", lambda data: data[:-32]),
    "a commitment too many": (ShareKeys, "noise_commitments", lambda data: data + data[:32]),
}


@pytest.mark.parametrize("name", SPOILT)
def test_noise_shares_of_a_wrong_size_drop_their_sender(name):
    """Past the codec, which refuses most of these before."""
    kind, field, spoil = SPOILT[name]
    script = noisy_script()
    server = script.server_in(ServerPhase.SHARE_KEYS if kind is ShareKeys else ServerPhase.UNMASKING)
    message = script.message(kind, ALICE)
    (dropped,) = server.receive(ALICE, replace(message, **{field: spoil(getattr(message, field))}))
    assert (dropped.client_id, dropped.reason) == (ALICE, DropReason.WRONG_SIZE)


def test_a_session_without_components_refuses_pads():
    params = make_params()

    def uplink(client_id, message):
        return replace(message, noise_pads=bytes(18)) if isinstance(message, UnmaskingShares) else message

    script = Cohort(params, random_inputs(params, seed=1), uplink=uplink).run()
    assert {drop.reason for drop in script.dropped.values()} == {DropReason.MALFORMED}


# --- Wrong shares ----------------------------------------------------------------------------------------------------


def lying(pads_of=(), corrections_of=(), components=(1, 2, 3)):
    """Return an uplink with which these holders change all their pads, and these owners their corrections."""

    def moved(data: bytes, every: int) -> bytes:
        shares = shares_from_bytes(data).astype(np.uint32)
        for component in components:
            shares[component - 1 :: every] += 7
        return shares_to_bytes(shares % PRIME)

    def uplink(client_id, message):
        match message:
            case UnmaskingShares() if client_id in pads_of and message.noise_pads:
                return replace(message, noise_pads=moved(message.noise_pads, 3))
            case ShareKeys() if client_id in corrections_of:
                return replace(message, noise_corrections=moved(message.noise_corrections, 3))
        return message

    return uplink


@each_mode
@pytest.mark.parametrize("liar", [0, 6], ids=["whose pad is its share", "whose share is corrected"])
def test_a_wrong_pad_is_corrected_and_its_sender_named(adversary, liar):
    params = replace(PARAMS, adversary=adversary)
    outcome = Cohort(params, INPUTS, uplink=lying(pads_of=[liar])).run()
    assert isinstance(outcome.end, Completed)
    assert outcome.end.culprits == (liar,)
    assert {dispute.holder for dispute in outcome.disputed.disputes} == {liar}
    assert outcome.end.noise_keys == {
        component: {i: keys[component - 1] for i, keys in outcome.noise_keys.items()} for component in (1, 2, 3)
    }


@each_mode
def test_noise_whose_seed_is_lost_stays_in_the_sum_and_the_session_goes_on(adversary):
    """An owner that sends corrections of another polynomial: no seed fits its commitment."""
    params = replace(PARAMS, adversary=adversary)
    outcome = Cohort(params, INPUTS, uplink=lying(corrections_of=[3], components=(2,))).run()
    assert isinstance(outcome.end, Completed)
    for component in (1, 2, 3):
        expected = {i: keys[component - 1] for i, keys in outcome.noise_keys.items() if (i, component) != (3, 2)}
        assert outcome.end.noise_keys[component] == expected
    assert outcome.end.included == tuple(range(7))


def test_too_many_wrong_pads_lose_keys_and_never_give_wrong_ones():
    outcome = Cohort(PARAMS, INPUTS, uplink=lying(pads_of=[0, 2, 4, 6])).run()
    assert isinstance(outcome.end, Completed)
    true = {(component, i): key for i, keys in outcome.noise_keys.items() for component, key in enumerate(keys, 1)}
    for component, keys in outcome.end.noise_keys.items():
        assert all(true[component, i] == key for i, key in keys.items())


def test_too_few_answers_end_the_session_as_without_components():
    outcome = Cohort(PARAMS, INPUTS, dict.fromkeys(range(4), BEFORE_UNMASKING)).run()
    assert isinstance(outcome.end, Aborted)
    assert outcome.end.reason is AbortReason.TOO_FEW_SHARES


def test_a_share_that_cannot_be_opened_gives_no_pad_either():
    """The holder reports the owner as missing, once."""

    def downlink(client_id, message):
        if client_id == 1 and isinstance(message, PeerShares):
            return replace(message, encrypted_shares=bytes(52) + message.encrypted_shares[52:])
        return message

    outcome = Cohort(PARAMS, INPUTS, downlink=downlink).run()
    assert isinstance(outcome.end, Completed)
    answer = outcome.sent[UnmaskingShares][1]
    assert answer.held == (False, *[True] * 6)
    assert len(answer.noise_pads) == SHARE_BYTES * 3 * 6
    assert [(one.owner, one.holder) for one in outcome.disputed.disputes] == [(0, 1)]
    assert outcome.end.noise_keys[1] == {i: keys[0] for i, keys in outcome.noise_keys.items()}


def test_a_client_that_never_sent_its_input_keeps_all_its_noise():
    outcome = Cohort(PARAMS, INPUTS, {2: BEFORE_INPUT}).run()
    assert all(2 not in keys for keys in outcome.end.noise_keys.values())
    released = {len(message.noise_pads) for message in outcome.sent[UnmaskingShares].values()}
    assert released == {SHARE_BYTES * 6 * len(noise.removed_components(PARAMS, 6))}


def test_neither_seeds_nor_keys_of_noise_that_stays_are_reachable_from_the_server():
    script = noisy_script()
    secrets = {name: value for name, value in script.secrets(ALICE).items() if "component" in name}
    removed = set(script.end.noise_keys)
    assert removed < {1, 2, 3}
    assert removed
    found = secrets_in(secrets, script.server, script.end)
    assert {name for name in found if name.startswith("key")} == {f"key of component {c}" for c in removed}
    assert not {name for name in found if name.startswith("seed") and int(name[-1]) not in removed}


def test_events_and_messages_do_not_print_what_they_hold():
    script = noisy_script(Adversary.MALICIOUS)
    key = next(iter(script.end.noise_keys[min(script.end.noise_keys)].values()))
    assert repr(key) not in repr(script.end)
    assert repr(script.message(UnmaskingShares, ALICE).noise_pads) not in repr(script.message(UnmaskingShares, ALICE))


def test_the_client_is_dead_after_an_abort_and_gives_no_keys():
    client, _ = noisy_script().client(ClientPhase.INPUT_REQUESTED, ALICE)
    client.abort()
    with pytest.raises(LocalProtocolError):
        client.noise_keys()
    assert isinstance(client, Client)
