"""Sessions with wrong shares: the exact sum and the liars' names, or no sum."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Aborted, AbortReason, Adversary, Completed, Dispute, ShareFault, SharesDisputed
from secagg.algebra.field import PRIME
from secagg.messages import AdvertiseKeys, PeerKeys, PeerShares, ShareKeys, UnmaskingShares
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests import reference
from tests.secagg.machines import MODES, numbers_of
from tests.support.sessions import (
    BEFORE_INPUT,
    BEFORE_UNMASKING,
    Cohort,
    exact_sum,
    make_params,
    random_inputs,
)

IDS = (5, 8, 13, 21, 34, 55, 89)
PARAMS = {mode: make_params(7, 4, vector_length=12, adversary=mode) for mode in MODES}
INPUTS = dict(zip(IDS, random_inputs(PARAMS[MODES[0]], seed=31).values(), strict=True))

each_mode = pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)


class Liars(Cohort):
    """A session in which some holders return wrong shares, and some owners dealt wrong ones.

    Each is (owner, holder).
    """

    def __init__(self, params, inputs, missing_from=(), given_back=(), dealt=(), limbs=range(9), by=4321) -> None:
        super().__init__(params, inputs, dict(missing_from), entropy_seed="liars", uplink=self._lie)
        self.given_back, self.dealt, self.limbs, self.by = set(given_back), set(dealt), list(limbs), by
        self.neighbors: dict[int, tuple[int, ...]] = {}
        self.downlink = self._listen

    def _listen(self, client_id: int, message: object) -> object:
        if isinstance(message, PeerKeys):
            self.neighbors[client_id] = message.client_ids
        return message

    def _lie(self, client_id: int, message: object) -> object:
        match message:
            case ShareKeys() if any(owner == client_id for owner, _ in self.dealt):
                peers = [i for i in self.neighbors[client_id] if i != client_id]
                items = [
                    self._other_shares(client_id, peer)
                    if (client_id, peer) in self.dealt
                    else message.encrypted_shares[at * ENCRYPTED_SHARES_BYTES : (at + 1) * ENCRYPTED_SHARES_BYTES]
                    for at, peer in enumerate(peers)
                ]
                return replace(message, encrypted_shares=b"".join(items))
            case UnmaskingShares():
                rows = [owner for owner, held in zip(self.neighbors[client_id], message.held, strict=True) if held]
                shares = message.shares.copy()
                for row, owner in enumerate(rows):
                    if (owner, client_id) in self.given_back:
                        shares[row, self.limbs] = (shares[row, self.limbs].astype(int) + self.by) % PRIME
                return replace(message, shares=shares)
            case _:
                return message

    def _other_shares(self, dealer: int, holder: int) -> bytes:
        """Return wrong shares, properly encrypted."""
        session = self.server.session_id
        model = reference.Client(numbers_of(self.params), session, dealer, self.entropy[dealer].draws)
        # The holder's place in the dealer's neighbourhood.
        shares = model.share(self.neighbors[dealer].index(holder))
        limbs = [(limb + self.by) % PRIME for share in shares for limb in share]
        key, _ = model.channel_keys(holder, self.sent[AdvertiseKeys][holder].channel_public_key)
        bound = b"secagg/1 encrypted shares" + session + reference.id_bytes(dealer, holder)
        return AESGCM(key).encrypt(bytes(12), b"".join(limb.to_bytes(2, "big") for limb in limbs), bound)


def check_exact(outcome: Cohort, inputs) -> None:
    assert isinstance(outcome.end, Completed), outcome.end
    assert outcome.end.sum.tolist() == exact_sum(outcome.server.params, [inputs[i] for i in outcome.end.included])


def wrong(*pairs: tuple[int, int]) -> tuple[Dispute, ...]:
    return tuple(Dispute(owner, holder, ShareFault.WRONG) for owner, holder in sorted(pairs))


# --- One liar --------------------------------------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize("limbs", [range(9), *([limb] for limb in range(9))], ids=str)
@pytest.mark.parametrize("holder", [5, 21, 89])
@pytest.mark.parametrize("missing_from", [{}, {34: BEFORE_INPUT}], ids=["of a self mask", "of a mask key"])
def test_one_wrong_share_is_corrected_and_its_sender_named(adversary, limbs, holder, missing_from):
    """Seven or six shares where four are needed, of which one is wrong."""
    outcome = Liars(PARAMS[adversary], INPUTS, missing_from, [(34, holder)], limbs=limbs).run()
    check_exact(outcome, INPUTS)
    assert outcome.end.included == tuple(i for i in IDS if i not in missing_from)
    assert outcome.disputed == SharesDisputed(wrong((34, holder)), (holder,))
    assert outcome.disputed.disputes[0].fault is ShareFault.WRONG
    assert outcome.end.culprits == (holder,)
    assert not outcome.refused


@each_mode
def test_a_client_that_lies_about_everybody_is_the_only_one_named(adversary):
    outcome = Liars(PARAMS[adversary], INPUTS, {34: BEFORE_INPUT}, [(owner, 8) for owner in IDS]).run()
    check_exact(outcome, INPUTS)
    assert outcome.disputed == SharesDisputed(wrong(*((owner, 8) for owner in IDS)), (8,))
    assert outcome.end.culprits == (8,)


@each_mode
@pytest.mark.parametrize("missing_from", [{}, {4: BEFORE_INPUT}], ids=["it survives", "it vanishes"])
def test_a_client_that_dealt_wrong_shares_is_named_and_not_its_victims(adversary, missing_from):
    """Eleven or ten shares where six are needed, of which two are wrong: both have one dealer."""
    params = make_params(11, 6, adversary=adversary)
    inputs = random_inputs(params, seed=32)
    outcome = Liars(params, inputs, missing_from, dealt=[(4, 1), (4, 6)]).run()
    check_exact(outcome, inputs)
    assert outcome.disputed == SharesDisputed(wrong((4, 1), (4, 6)), (4,))
    assert outcome.end.culprits == (4,)


@each_mode
def test_for_a_single_wrong_share_the_holder_is_named_although_the_dealer_may_have_lied(adversary):
    outcome = Liars(PARAMS[adversary], INPUTS, dealt=[(13, 55)]).run()
    check_exact(outcome, INPUTS)
    assert outcome.disputed == SharesDisputed(wrong((13, 55)), (55,))


# --- Too many --------------------------------------------------------------------------------------------------------


@each_mode
@pytest.mark.parametrize(
    ("missing_from", "holders"),
    [
        ({}, (5, 55)),
        ({34: BEFORE_INPUT}, (8, 13)),
        # Five shares where four are needed: it is visible that one is wrong, but not which.
        ({34: BEFORE_INPUT, 89: BEFORE_UNMASKING}, (8,)),
    ],
)
def test_with_more_wrong_shares_than_can_be_corrected_there_is_no_sum(adversary, missing_from, holders):
    outcome = Liars(PARAMS[adversary], INPUTS, missing_from, [(34, i) for i in holders], by=777, limbs=[3]).run()
    if len(holders) == 2:
        # Two liars that add the same error are seldom on another polynomial.
        assert not isinstance(outcome.end, Completed)
    assert isinstance(outcome.end, Aborted)
    assert (outcome.end.reason, outcome.end.owners) == (AbortReason.INVALID_SHARES, (34,))
    assert (outcome.end.needed, outcome.end.had) == (7, 6)


@each_mode
def test_liars_exposed_by_other_secrets_are_left_out_of_one_with_too_many_wrong_shares(adversary):
    """Two of seven lie about 34, one too many; each lies about another secret too, and is found out there."""
    given_back = [(34, 5), (34, 55), (8, 5), (13, 55)]
    outcome = Liars(PARAMS[adversary], INPUTS, given_back=given_back, limbs=[2], by=99).run()
    check_exact(outcome, INPUTS)
    assert outcome.disputed == SharesDisputed(wrong(*given_back), (5, 55))


@each_mode
def test_with_just_as_many_shares_as_are_needed_a_wrong_one_ends_the_session(adversary):
    """The liar cannot be found: four points are always on a cubic."""
    missing_from = {34: BEFORE_INPUT, 55: BEFORE_UNMASKING, 89: BEFORE_UNMASKING}
    for limb in range(9):
        outcome = Liars(PARAMS[adversary], INPUTS, missing_from, [(34, 8)], limbs=[limb]).run()
        assert isinstance(outcome.end, Aborted)
        assert (outcome.end.reason, outcome.end.owners) == (AbortReason.INVALID_SHARES, (34,))
        assert outcome.disputed is None


# --- Shares that could not be opened ---------------------------------------------------------------------------------


@each_mode
def test_shares_that_a_client_could_not_open_are_made_up_for_by_others(adversary):
    """Two clients could not open one peer's shares; five others can. The peer that sealed them is the first suspect."""

    def downlink(client_id, message):
        if client_id in (8, 34) and isinstance(message, PeerShares):
            # The shares from client 5 come first in both.
            data = bytearray(message.encrypted_shares)
            data[0] ^= 1
            return replace(message, encrypted_shares=bytes(data))
        return message

    outcome = Cohort(PARAMS[adversary], INPUTS, downlink=downlink).run()
    check_exact(outcome, INPUTS)
    assert outcome.end.included == IDS
    assert [(dispute.owner, dispute.holder) for dispute in outcome.disputed.disputes] == [(5, 8), (5, 34)]
    assert {dispute.fault for dispute in outcome.disputed.disputes} == {ShareFault.MISSING}
    assert outcome.disputed.culprits == outcome.end.culprits == (5,)


# --- Anybody -------------------------------------------------------------------------------------------------------


@st.composite
def lies(draw, ids) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Draw shares that are returned wrong, and shares that are dealt wrong, by one or a few clients each."""
    given_back = {
        (owner, liar)
        for liar in draw(st.sets(st.sampled_from(ids), max_size=2))
        for owner in draw(st.sets(st.sampled_from(ids), min_size=1))
    }
    dealt = {
        (dealer, holder)
        for dealer in draw(st.sets(st.sampled_from(ids), max_size=1))
        for holder in draw(st.sets(st.sampled_from(ids), max_size=3))
        if holder != dealer
    }
    return given_back - dealt, dealt


@pytest.mark.slow
@settings(max_examples=60)
@given(
    adversary=st.sampled_from(Adversary),
    sparse=st.booleans(),
    missing=st.sets(st.integers(0, 12), max_size=1),
    lies=lies(range(13)),
    limbs=st.sets(st.integers(0, 8), min_size=1),
    by=st.integers(1, PRIME - 1),
)
def test_a_session_with_liars_gives_the_exact_sum_and_their_names_or_none(adversary, sparse, missing, lies, limbs, by):
    params = (
        make_params(13, 5, vector_length=3, degree=8, adversary=adversary)
        if sparse
        else make_params(13, 7, vector_length=3, adversary=adversary)
    )
    inputs = random_inputs(params, seed=33)
    given_back, dealt = lies
    session = Liars(params, inputs, dict.fromkeys(missing, BEFORE_INPUT), given_back, dealt, sorted(limbs), by)
    outcome = session.run()
    told = {
        (owner, holder)
        for owner, holder in given_back | dealt
        if holder not in missing and holder in session.neighbors[owner] and (params.is_complete or owner != holder)
    }
    holders_of = {i: set(session.neighbors[i]) - missing - (set() if params.is_complete else {i}) for i in inputs}
    spare = {i: (len(holders_of[i]) - params.threshold) // 2 for i in inputs}
    if all(sum(1 for owner, _ in told if owner == i) <= spare[i] for i in inputs):
        check_exact(outcome, inputs)
        assert outcome.end.included == tuple(i for i in inputs if i not in missing)
        named = set() if outcome.disputed is None else {(d.owner, d.holder) for d in outcome.disputed.disputes}
        assert named == told
        assert all(owner in outcome.end.culprits or holder in outcome.end.culprits for owner, holder in told)
    elif isinstance(outcome.end, Completed):
        check_exact(outcome, inputs)
    else:
        assert outcome.end.reason is AbortReason.INVALID_SHARES


def test_colluding_liars_do_not_get_an_honest_client_named():
    """Two equal errors in six shares of degree three are one error away from another polynomial."""
    liars = Liars(
        make_params(6, 4), random_inputs(make_params(6, 4), seed=1), given_back=[(0, 1), (0, 2)], limbs=[4], by=7
    )
    end = liars.run().end
    assert isinstance(end, Aborted)
    assert end.reason is AbortReason.INVALID_SHARES
    assert end.owners == (0,)
    assert set(end.culprits) <= {1, 2}
