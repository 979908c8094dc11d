"""A client in each phase: every message out of turn is refused, and nothing is held longer than needed."""

from dataclasses import replace

import pytest

from secagg import ClientPhase, InputRequested, LocalProtocolError, RemoteProtocolError, Rule, Send
from secagg.messages import ConsistencyProof, PeerKeys, PeerShares, SurvivorList, UnmaskingShares
from tests import reference
from tests.secagg.machines import (
    ALICE,
    ALL_MESSAGES,
    HONEST,
    IDS,
    MALICIOUS,
    MODES,
    SEMI_MALICIOUS,
    SERVER_MESSAGES,
    VANISHED,
    Halt,
    Script,
    halts,
    numbers_of,
    script,
    sparse_script,
)
from tests.secagg.object_graph import secrets_in

NEXT_PHASE = {
    (ClientPhase.ADVERTISED, PeerKeys): ClientPhase.SHARED_KEYS,
    (ClientPhase.SHARED_KEYS, PeerShares): ClientPhase.INPUT_REQUESTED,
    (ClientPhase.MASKED, SurvivorList): ClientPhase.SURVIVORS_SIGNED,
    (ClientPhase.SURVIVORS_SIGNED, ConsistencyProof): ClientPhase.FINISHED,
}
"""The legal moves in modes that sign the survivors. All others are refused."""

HONEST_NEXT_PHASE = {
    **{move: phase for move, phase in NEXT_PHASE.items() if ClientPhase.SURVIVORS_SIGNED not in (*move, phase)},
    (ClientPhase.MASKED, SurvivorList): ClientPhase.FINISHED,
}

REPEATED = {
    (ClientPhase.SURVIVORS_SIGNED, SurvivorList),
    (ClientPhase.FINISHED, SurvivorList),
    (ClientPhase.FINISHED, ConsistencyProof),
}
"""Requests that were already answered, as opposed to requests of another phase."""

HONEST_REPEATED = {(ClientPhase.FINISHED, SurvivorList)}

DEAD = (ClientPhase.ABORTED, ClientPhase.SUSPENDED)
LIVE = [phase for phase in ClientPhase if phase not in DEAD]

each_message = pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)


def assert_dead(recorded: Script, client, phase=ClientPhase.ABORTED) -> None:
    """Assert that the client does nothing more and that no secret is left in it, nor its host's identity."""
    assert client.phase is phase
    assert secrets_in(recorded.secrets(ALICE), client) == set()
    for call in (
        client.start,
        client.suspend,
        lambda: client.submit_input(recorded.inputs[ALICE]),
        *(lambda kind=kind: client.receive(recorded.message(kind, ALICE)) for kind in SERVER_MESSAGES),
    ):
        with pytest.raises(LocalProtocolError, match=phase.name):
            call()
    assert client.phase is phase


# --- Every phase with every message ----------------------------------------------------------------------------------


@each_message
@pytest.mark.parametrize("halt", halts(ClientPhase), ids=str)
def test_every_message_in_every_phase_is_legal_or_refused(halt, kind):
    client, message = halt.client(), halt.script.message(kind, ALICE)
    moves = HONEST_NEXT_PHASE if halt.adversary is HONEST else NEXT_PHASE
    repeated = HONEST_REPEATED if halt.adversary is HONEST else REPEATED
    if halt.phase in DEAD:
        with pytest.raises(LocalProtocolError):
            client.receive(message)
        assert_dead(halt.script, client, halt.phase)
    elif (halt.phase, kind) in moves:
        (event,) = client.receive(message)
        assert client.phase is moves[halt.phase, kind]
        assert isinstance(event, InputRequested if client.phase is ClientPhase.INPUT_REQUESTED else Send)
    else:
        with pytest.raises(RemoteProtocolError) as refusal:
            client.receive(message)
        if (halt.phase, kind) in repeated:
            assert refusal.value.rule is Rule.REPEATED_REQUEST
        else:
            assert refusal.value.rule is Rule.UNEXPECTED_MESSAGE
            assert kind.__name__ in str(refusal.value)
        assert_dead(halt.script, client)


@each_message
@pytest.mark.parametrize("halt", halts(LIVE), ids=str)
def test_a_message_of_another_session_is_refused_in_every_phase(halt, kind):
    client = halt.client()
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(replace(halt.script.message(kind, ALICE), session_id=bytes(32)))
    assert refusal.value.rule is Rule.WRONG_SESSION
    assert_dead(halt.script, client)


@pytest.mark.parametrize("halt", halts([*LIVE, ClientPhase.ABORTED]), ids=str)
def test_abort_forgets_every_secret_in_every_phase(halt):
    client = halt.client()
    client.abort()
    if halt.phase is ClientPhase.FINISHED:
        assert client.phase is halt.phase, "a finished client has nothing to abort"
    else:
        assert_dead(halt.script, client)


@pytest.mark.parametrize("halt", halts([ClientPhase.SURVIVORS_SIGNED, ClientPhase.FINISHED]), ids=str)
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, Rule.REPEATED_REQUEST),
        ({"survivors": (True,) * 5}, Rule.SURVIVORS_CHANGED),
        ({"survivors": (True, True, False, True, False)}, Rule.SURVIVORS_CHANGED),
        ({"survivors": ()}, Rule.SURVIVORS_CHANGED),
    ],
    ids=["the same", "one more", "one less", "none"],
)
def test_a_second_survivor_list_is_refused(halt, change, rule):
    """Answers to two different lists would give away both secrets of a client; so there is only one answer."""
    client = halt.client()
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(replace(halt.script.message(SurvivorList, ALICE), **change))
    assert refusal.value.rule is rule
    assert_dead(halt.script, client)


def test_a_second_proof_is_refused_for_any_content():
    for change in ({}, {"signatures": b""}, {"consistent": (True,) * 5}):
        client = Halt(MALICIOUS, ClientPhase.FINISHED).client()
        with pytest.raises(RemoteProtocolError) as refusal:
            client.receive(replace(script(MALICIOUS).message(ConsistencyProof, ALICE), **change))
        assert refusal.value.rule is Rule.REPEATED_REQUEST
        assert_dead(script(MALICIOUS), client)


# --- What a client holds, and when it forgets it ----------------------------------------------------------------------

IDENTITY = {
    MALICIOUS: {"identity's secret key", "a Ed25519PrivateKey object"},
    # Drawn at the start, for this session only.
    SEMI_MALICIOUS: {"draw 4", "a Ed25519PrivateKey object"},
}

PAIRWISE_KEYS = {f"pairwise mask key with {peer_id}" for peer_id in IDS if peer_id != ALICE}

HELD = {
    ClientPhase.CREATED: set(),
    ClientPhase.ADVERTISED: {"draw 0", "draw 1", "draw 2", "draw 3"},
    ClientPhase.SHARED_KEYS: {"draw 1", "draw 2", "own share of mask key", "own share of self mask"}
    | {f"channel key from {peer_id}" for peer_id in IDS if peer_id != ALICE},
    ClientPhase.INPUT_REQUESTED: {"draw 1", "draw 2", "own share of mask key", "own share of self mask"},
    ClientPhase.MASKED: {"own share of mask key", "own share of self mask"} | PAIRWISE_KEYS,
    ClientPhase.SURVIVORS_SIGNED: {"own share of mask key", "own share of self mask"} | PAIRWISE_KEYS,
    ClientPhase.FINISHED: set(),
    ClientPhase.ABORTED: set(),
    ClientPhase.SUSPENDED: set(),
}
"""Names of the draws in order: the channel key, the seeds of mask key and self mask, the sharing polynomials' seed."""


@pytest.mark.parametrize("halt", halts(ClientPhase), ids=str)
def test_a_client_holds_only_the_secrets_that_it_still_needs(halt):
    """This also proves that the walker finds what is there.

    The identity is the host's; a client that will not sign any more drops its reference.
    """
    held = set(HELD[halt.phase])
    if halt.phase not in (*DEAD, ClientPhase.FINISHED):
        held |= IDENTITY.get(halt.adversary, set())
    if (halt.adversary, halt.phase) == (SEMI_MALICIOUS, ClientPhase.CREATED):
        held = set()
    assert secrets_in(halt.script.secrets(ALICE), halt.client()) == held


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_no_event_holds_a_secret_beyond_what_is_released(adversary):
    recorded = script(adversary)
    sent = [recorded.message(kind, ALICE) for kind in recorded.kinds]
    answer = recorded.message(UnmaskingShares, ALICE)
    assert secrets_in(recorded.secrets(ALICE), sent) == {
        "own share of self mask",
        f"pairwise mask key with {VANISHED}",
    }
    model = reference.Client(numbers_of(recorded.params), recorded.session_id, ALICE, recorded.entropy[ALICE].draws)
    assert secrets_in({"mask key": model.mask_secret_key, "seed": model.self_mask_seed}, answer) == set()


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_exactly_one_share_of_each_peer_is_released(adversary):
    """The core of double masking: a survivor's self-mask share is released, or a vanished client's mask-key share."""
    recorded = script(adversary)
    released = recorded.message(UnmaskingShares, ALICE).shares
    assert released.shape == (5, 9)
    assert_one_share_each(recorded, IDS, released.tolist())


def test_exactly_one_share_of_each_neighbour_is_released_and_none_of_its_own_secrets():
    recorded = sparse_script()
    answer = recorded.message(UnmaskingShares, ALICE)
    neighbors = recorded.message(PeerKeys, ALICE).client_ids
    assert VANISHED in neighbors
    assert answer.held == tuple(client_id != ALICE for client_id in neighbors)
    assert_one_share_each(recorded, [i for i in neighbors if i != ALICE], answer.shares.tolist())


def pairwise_key(recorded: Script, one: int, other: int) -> bytes:
    key = recorded.secrets(one)[f"pairwise mask key with {other}"]
    assert isinstance(key, bytes)
    return key


@pytest.mark.parametrize("recorded", [*map(script, MODES), sparse_script()], ids=["honest", "malicious", "sparse"])
def test_the_pairwise_keys_with_vanished_peers_are_handed_over_and_no_others(recorded):
    """In the signed modes on a sparse graph too much would follow from one: there none is kept or handed over."""
    handed_over = 0
    for client_id, answer in recorded.client_messages[UnmaskingShares].items():
        if recorded.params.hands_over_pairwise_keys and VANISHED in recorded.message(PeerKeys, client_id).client_ids:
            assert answer.pairwise_keys == pairwise_key(recorded, client_id, VANISHED)
            handed_over += 1
        else:
            assert answer.pairwise_keys == b""
    assert handed_over == (len(IDS) - 1 if recorded.params.is_complete else 0)


def test_a_client_in_a_signed_mode_on_a_sparse_graph_keeps_no_pairwise_key():
    recorded = sparse_script()
    assert recorded.params.is_signed
    names = {name for name in recorded.secrets(ALICE) if name.startswith("pairwise")}
    for phase in (ClientPhase.MASKED, ClientPhase.SURVIVORS_SIGNED):
        client, _ = recorded.client(phase, ALICE)
        assert secrets_in(recorded.secrets(ALICE), client).isdisjoint(names)


def assert_one_share_each(recorded: Script, owners, rows) -> None:
    for owner, row in zip(owners, rows, strict=True):
        numbers = numbers_of(recorded.params)
        model = reference.Client(numbers, recorded.session_id, owner, recorded.entropy[owner].draws)
        place = recorded.message(PeerKeys, owner).client_ids.index(ALICE)
        mask_key_share, self_mask_share = model.share(place)
        assert row == (mask_key_share if owner == VANISHED else self_mask_share)
