"""The survivors' signatures: a client answers only a list that a quorum of its neighbours was shown too."""

from dataclasses import replace

import pytest

from secagg import ClientPhase, Completed, DropReason, RemoteProtocolError, Round, Rule
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    PeerKeys,
    PeerShares,
    SurvivorList,
    UnmaskingShares,
)
from tests import reference
from tests.secagg.client_cases import CHANNEL, MASK, signed_anew, split, with_item
from tests.secagg.machines import ALICE, MALICIOUS, VANISHED, Script, script, sparse_script
from tests.secagg.test_client_phases import assert_dead
from tests.support.sessions import BEFORE_CONSISTENCY, Cohort, exact_sum, identity_of, make_params, random_inputs

QUORUM = 5
"""Members of a neighbourhood in the sparse session: four neighbours and the client itself."""


def own_view() -> tuple[int, ...]:
    return sparse_script().message(PeerKeys, ALICE).client_ids


def signers() -> list[int]:
    return [i for i in own_view() if i in sparse_script().client_messages[ConsistencyCheck] and i != ALICE]


def view_of(client_id: int) -> tuple[int, ...]:
    return sparse_script().message(PeerKeys, client_id).client_ids


def proof() -> ConsistencyProof:
    return sparse_script().message(ConsistencyProof, ALICE)


def views() -> list[tuple[int, list[bytes]]]:
    """Return for each signer the bits of the common members and the digests of the others."""
    digests = split(proof().others, 32)
    taken = []
    for bits in proof().common:
        number = 7 - bits.bit_count()
        taken.append((bits, digests[:number]))
        digests = digests[number:]
    assert digests == []
    return taken


def proof_of(changed: list[tuple[int, list[bytes]]]) -> ConsistencyProof:
    return replace(
        proof(),
        common=bytes(bits for bits, _ in changed),
        others=b"".join(digest for _, digests in changed for digest in digests),
    )


def refusal_of(message: ConsistencyProof) -> Rule:
    client, _ = sparse_script().client(ClientPhase.SURVIVORS_SIGNED, ALICE)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(message)
    assert_dead(sparse_script(), client)
    return refusal.value.rule


def test_the_recorded_session_has_what_these_tests_need():
    assert len(own_view()) == 7
    assert VANISHED in own_view()
    assert len(signers()) == 5
    assert all(0 < len(digests) < 6 for _, digests in views())
    client, _ = sparse_script().client(ClientPhase.SURVIVORS_SIGNED, ALICE)
    (event,) = client.receive(proof())
    assert event.message == sparse_script().message(UnmaskingShares, ALICE)


# --- Sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"common": lambda data: b""},
        {"common": lambda data: data[:-1]},
        {"common": lambda data: data + b"\x7f"},
        {"others": lambda data: b""},
        {"others": lambda data: data[:-1]},
        {"others": lambda data: data[:-32]},
        {"others": lambda data: data + bytes(32)},
        {"signatures": lambda data: data[:-64]},
        {"signatures": lambda data: data + bytes(64)},
        {"consistent": lambda flags: flags[:-1]},
    ],
)
def test_views_of_wrong_sizes_are_refused(change):
    assert refusal_of(replace(proof(), **{n: f(getattr(proof(), n)) for n, f in change.items()})) is Rule.WRONG_SIZE


@pytest.mark.parametrize("place", range(5))
def test_a_bit_behind_the_last_member_is_refused(place):
    changed = views()
    changed[place] = changed[place][0] | 0x80, changed[place][1]
    assert refusal_of(proof_of(changed)) is Rule.WRONG_SIZE


@pytest.mark.parametrize("place", range(5))
def test_a_view_of_another_size_is_refused(place):
    """All neighbourhoods of a graph have one size: one common member less takes a digest from the next view."""
    changed = views()
    bits, digests = changed[place]
    member = next(i for i in range(7) if bits >> i & 1 and own_view()[i] not in (ALICE, signers()[place]))
    changed[place] = bits ^ 1 << member, digests
    assert refusal_of(proof_of(changed)) is Rule.WRONG_SIZE


# --- Contents of views ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(5))
def test_a_view_without_its_reader_is_refused(place):
    """A peer that was not told of this client releases a share of its mask key instead of its self-mask seed."""
    changed = views()
    bits, digests = changed[place]
    changed[place] = bits ^ 1 << own_view().index(ALICE), [*digests, bytes(32)]
    assert refusal_of(proof_of(changed)) is Rule.VIEWS_CONTRADICT


@pytest.mark.parametrize("place", range(5))
def test_a_view_without_its_signer_is_refused(place):
    """A view that the signer signed under other keys, in another run, says nothing of its shares in this run."""
    changed = views()
    bits, digests = changed[place]
    signer = signers()[place]
    of_another_run = reference.view_member(sparse_script().session_id, signer, [identity_of(signer).public_key] * 3, 2)
    changed[place] = bits ^ 1 << own_view().index(signer), [*digests, of_another_run]
    assert refusal_of(proof_of(changed)) is Rule.VIEWS_CONTRADICT


@pytest.mark.parametrize("standing", range(3))
@pytest.mark.parametrize("place", range(5))
def test_a_member_that_both_know_does_not_come_as_one_that_only_the_signer_knows(place, standing):
    """A digest could give the member another standing, and nobody would see the contradiction."""
    changed = views()
    bits, digests = changed[place]
    member = next(i for i in range(7) if bits >> i & 1 and own_view()[i] != ALICE)
    hidden = member_digest(sparse_script(), own_view()[member], standing)
    changed[place] = bits ^ 1 << member, [*digests, hidden]
    assert refusal_of(proof_of(changed)) is Rule.VIEWS_CONTRADICT


def member_digest(recorded: Script, client_id: int, standing: int) -> bytes:
    keys = recorded.message(AdvertiseKeys, client_id)
    own = (keys.identity_key, keys.channel_public_key, keys.mask_public_key)
    return reference.view_member(recorded.session_id, client_id, own, standing)


@pytest.mark.parametrize("num_spoiled", [1, 2, 5])
def test_signatures_of_other_views_are_not_counted(num_spoiled):
    """There are six signatures with the client's own: one may be invalid, two are one too many."""
    changed = views()
    for place in range(num_spoiled):
        bits, digests = changed[place]
        changed[place] = bits, [bytes(32), *digests[1:]]
    if 1 + 5 - num_spoiled >= QUORUM:
        client, _ = sparse_script().client(ClientPhase.SURVIVORS_SIGNED, ALICE)
        client.receive(proof_of(changed))
        assert client.phase is ClientPhase.FINISHED
    else:
        assert refusal_of(proof_of(changed)) is Rule.TOO_FEW_SIGNATURES


def test_the_views_of_two_peers_are_not_taken_for_each_others():
    """This holds also if each of the two is in the other's view, so that neither contradicts what ALICE knows."""
    changed = views()
    for first, second in ((0, 1), (2, 4)):
        assert signers()[first] in view_of(signers()[second])
        changed[first], changed[second] = changed[second], changed[first]
    assert refusal_of(proof_of(changed)) is Rule.TOO_FEW_SIGNATURES


# --- Servers that tell different clients different things ------------------------------------------------------------


def told_otherwise(recorded: Script, survivors: dict[int, bool]) -> None:
    """Return a session in which only ALICE gets another list of survivors: others' signatures must not count."""
    client, _ = recorded.client(ClientPhase.MASKED, ALICE)
    honest = recorded.message(SurvivorList, ALICE)
    ids = recorded.message(PeerKeys, ALICE).client_ids
    flags = tuple(survivors.get(i, flag) for i, flag in zip(ids, honest.survivors, strict=True))
    assert flags != honest.survivors
    (check,) = client.receive(replace(honest, survivors=flags))
    assert check.message != recorded.message(ConsistencyCheck, ALICE)
    agreeing = [i for i in recorded.message(PeerKeys, ALICE).client_ids if not set(survivors) & neighbors(recorded, i)]
    assert 1 + len(agreeing) < recorded.params.quorum
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(recorded.message(ConsistencyProof, ALICE))
    assert refusal.value.rule is Rule.TOO_FEW_SIGNATURES
    assert_dead(recorded, client)


def neighbors(recorded: Script, client_id: int) -> set[int]:
    return set(recorded.message(PeerKeys, client_id).client_ids)


def test_a_client_that_was_told_of_another_survivor_does_not_answer():
    told_otherwise(script(MALICIOUS), {VANISHED: True})
    told_otherwise(sparse_script(), {VANISHED: True, signers()[0]: True})


@pytest.mark.parametrize("recorded", [lambda: script(MALICIOUS), sparse_script], ids=["complete", "sparse"])
def test_keys_that_only_one_client_was_shown_make_its_view_another(recorded):
    """A corrupt peer signs two pairs of keys, and the server shows the second pair only to ALICE."""
    recorded = recorded()
    honest = recorded.message(PeerKeys, ALICE)
    shared_by_most = max(
        (i for i in honest.client_ids if i not in (ALICE, VANISHED)),
        key=lambda i: len(neighbors(recorded, i) & neighbors(recorded, ALICE)),
    )
    place = honest.client_ids.index(shared_by_most)
    shown = honest
    for name, number in ((CHANNEL, 1), (MASK, 2)):
        shown = with_item(name, place, reference.x25519_public(bytes([number]) * 32))(shown)
    shown = signed_anew(place, shared_by_most)(shown)
    client, _ = recorded.client(ClientPhase.ADVERTISED, ALICE)
    client.receive(shown)
    (event,) = client.receive(recorded.message(PeerShares, ALICE))
    assert event.rejected_shares == (shared_by_most,)
    client.submit_input(recorded.inputs[ALICE])
    client.receive(recorded.message(SurvivorList, ALICE))
    agreeing = [i for i in honest.client_ids if shared_by_most not in neighbors(recorded, i)]
    assert 1 + len(agreeing) < recorded.params.quorum
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(recorded.message(ConsistencyProof, ALICE))
    assert refusal.value.rule is Rule.TOO_FEW_SIGNATURES


def test_a_signature_of_a_view_in_another_session_is_worth_nothing():
    recorded = script(MALICIOUS)
    other = Script(recorded.params, recorded.inputs, {VANISHED: 2}, seed="another")
    client, _ = recorded.client(ClientPhase.SURVIVORS_SIGNED, ALICE)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(replace(other.message(ConsistencyProof, ALICE), session_id=recorded.session_id))
    assert refusal.value.rule is Rule.TOO_FEW_SIGNATURES


# --- The server ------------------------------------------------------------------------------------------------------


def test_a_client_whose_neighbours_did_not_sign_is_dropped_and_its_input_stays():
    """Its proof would not have a quorum, so the client would refuse it."""
    params = make_params(40, 5, vector_length=4, degree=8, adversary=MALICIOUS)
    inputs = random_inputs(params, seed=3)
    views_seen: dict[int, tuple[int, ...]] = {}

    def downlink(client_id, message):
        if isinstance(message, PeerKeys):
            views_seen[client_id] = message.client_ids
        return message

    def cohort(missing_from: dict[int, int]) -> Cohort:
        return Cohort(params, inputs, missing_from, downlink=downlink, entropy_seed="lonely signers")

    cohort({}).run()
    silent = [i for i in views_seen[7] if i != 7][:4]
    outcome = cohort(dict.fromkeys(silent, BEFORE_CONSISTENCY)).run()
    assert isinstance(outcome.end, Completed) or outcome.end.round is Round.CONSISTENCY_CHECK
    assert {outcome.dropped[i].round for i in silent} == {Round.CONSISTENCY_CHECK}
    assert {outcome.dropped[i].reason for i in silent} == {DropReason.DEADLINE}
    if isinstance(outcome.end, Completed):
        assert outcome.dropped[7].reason is DropReason.TOO_FEW_NEIGHBORS
        assert outcome.end.included == tuple(range(40))
        assert outcome.end.sum.tolist() == exact_sum(params, inputs.values())
    assert not outcome.refused


def test_signatures_are_checked_with_the_advertised_key():
    """The server drops a client with one bad signature, which must not spoil everybody's proof."""
    recorded = script(MALICIOUS)
    for client_id, check in recorded.client_messages[ConsistencyCheck].items():
        neighbors_seen = recorded.message(PeerKeys, client_id).client_ids
        standings = [2 if i != VANISHED else 1 for i in neighbors_seen]
        members = [member_digest(recorded, i, standing) for i, standing in zip(neighbors_seen, standings, strict=True)]
        statement = reference.view_statement(recorded.session_id, client_id, members)
        assert check.signature == identity_of(client_id).sign(statement)
