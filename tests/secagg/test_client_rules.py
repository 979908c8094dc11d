"""What a client refuses: every message out of turn, and every rule for what the server may say."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from secagg import (
    ClientPhase,
    InputRequested,
    LocalProtocolError,
    RemoteProtocolError,
    Rule,
    Send,
)
from secagg.messages import MaskedInput, PeerKeys, PeerShares, SurvivorList, UnmaskingShares
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests import reference
from tests.cohort import make_params, random_inputs
from tests.secagg.machines import (
    ALICE,
    ALL_MESSAGES,
    BAD_POINTS,
    IDS,
    SERVER_MESSAGES,
    VANISHED,
    Script,
    script,
)
from tests.secagg.object_graph import frames_of, secrets_in

OWN_PLACE = IDS.index(ALICE)
OTHERS = tuple(client_id for client_id in IDS if client_id != ALICE)

NEXT_PHASE = {
    (ClientPhase.ADVERTISED, PeerKeys): ClientPhase.SHARED_KEYS,
    (ClientPhase.SHARED_KEYS, PeerShares): ClientPhase.INPUT_REQUESTED,
    (ClientPhase.MASKED, SurvivorList): ClientPhase.FINISHED,
}
"""The legal moves. All others are refused."""

PHASE_OF = {kind: phase for phase, kind in NEXT_PHASE}

DEAD = (ClientPhase.ABORTED, ClientPhase.SUSPENDED)
LIVE = [phase for phase in ClientPhase if phase not in DEAD]


def assert_dead(client, phase=ClientPhase.ABORTED) -> None:
    """Nothing more can be had of the client, and nothing secret is left in it."""
    assert client.phase is phase
    assert secrets_in(script().secrets(ALICE), client) == set()
    for call in (
        client.start,
        client.suspend,
        lambda: client.submit_input(script().inputs[ALICE]),
        *(lambda kind=kind: client.receive(script().message(kind, ALICE)) for kind in SERVER_MESSAGES),
    ):
        with pytest.raises(LocalProtocolError, match=phase.name):
            call()
    assert client.phase is phase


# --- Every phase with every message ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", ClientPhase, ids=lambda phase: phase.name)
def test_every_message_in_every_phase_is_legal_or_refused(phase, kind):
    client, _ = script().client(phase, ALICE)
    message = script().message(kind, ALICE)
    if phase in DEAD:
        with pytest.raises(LocalProtocolError):
            client.receive(message)
        assert_dead(client, phase)
    elif (phase, kind) in NEXT_PHASE:
        (event,) = client.receive(message)
        assert client.phase is NEXT_PHASE[phase, kind]
        assert isinstance(event, InputRequested if client.phase is ClientPhase.INPUT_REQUESTED else Send)
    else:
        with pytest.raises(RemoteProtocolError) as refusal:
            client.receive(message)
        assert refusal.value.rule is Rule.UNEXPECTED_MESSAGE
        assert kind.__name__ in str(refusal.value)
        assert_dead(client)


@pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("phase", LIVE, ids=lambda phase: phase.name)
def test_a_message_of_another_session_is_refused_in_every_phase(phase, kind):
    client, _ = script().client(phase, ALICE)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(replace(script().message(kind, ALICE), session_id=bytes(32)))
    assert refusal.value.rule is Rule.WRONG_SESSION
    assert_dead(client)


@pytest.mark.parametrize("phase", [*LIVE, ClientPhase.ABORTED], ids=lambda phase: phase.name)
def test_abort_forgets_every_secret_in_every_phase(phase):
    client, _ = script().client(phase, ALICE)
    client.abort()
    if phase is ClientPhase.FINISHED:
        assert client.phase is phase, "a client whose part is done has nothing to give up"
    else:
        assert_dead(client)


@pytest.mark.parametrize("change", [{}, {"survivors": (True,) * 5}], ids=["the same", "another"])
def test_a_second_survivor_list_is_refused(change):
    """Two different lists would draw both secrets of a client out of its peers; so one answer is all there is."""
    client, _ = script().client(ClientPhase.FINISHED, ALICE)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(replace(script().message(SurvivorList, ALICE), **change))
    assert refusal.value.rule is Rule.UNEXPECTED_MESSAGE
    assert_dead(client)


# --- What a client holds, and when it lets go ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "held"),
    [
        (ClientPhase.CREATED, set()),
        (ClientPhase.ADVERTISED, {"draw 0", "draw 1", "draw 2", "draw 3"}),
        (
            ClientPhase.SHARED_KEYS,
            {"draw 1", "draw 2", "own share of mask key", "own share of self mask"}
            | {f"channel key from {peer_id}" for peer_id in IDS if peer_id != ALICE},
        ),
        (ClientPhase.INPUT_REQUESTED, {"draw 1", "draw 2", "own share of mask key", "own share of self mask"}),
        (ClientPhase.MASKED, {"own share of mask key", "own share of self mask"}),
        (ClientPhase.FINISHED, set()),
        (ClientPhase.ABORTED, set()),
        (ClientPhase.SUSPENDED, set()),
    ],
    ids=lambda value: value.name if isinstance(value, ClientPhase) else "",
)
def test_a_client_holds_only_the_secrets_that_it_still_needs(phase, held):
    """Draw 0 is the channel key, 1 the mask key's seed, 2 the self mask's, 3 that of the sharing polynomials.

    This is also the walker's proof that it finds what is there.
    """
    client, _ = script().client(phase, ALICE)
    assert secrets_in(script().secrets(ALICE), client) == held


def test_no_event_holds_a_secret_beyond_the_share_that_is_released():
    recorded = script()
    sent = [recorded.message(kind, ALICE) for kind in ALL_MESSAGES]
    answer = recorded.message(UnmaskingShares, ALICE)
    assert secrets_in(recorded.secrets(ALICE), sent) == {"own share of self mask"}
    model = reference.Client(None, recorded.session_id, ALICE, recorded.cohort.entropy[ALICE].draws)
    assert secrets_in({"mask key": model.mask_secret_key, "seed": model.self_mask_seed}, answer) == set()


# --- Every rule for the content of a message -------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A message that breaks ``rule``, made of the honest one."""

    name: str
    rule: Rule
    kind: type
    tweak: Callable
    culprits: tuple[int, ...] = ()


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def keep(*places: int):
    """PeerKeys of only the clients in these places, in this order."""

    def tweak(message: PeerKeys) -> PeerKeys:
        channel, mask = split(message.channel_public_keys, 32), split(message.mask_public_keys, 32)
        return PeerKeys(
            message.session_id,
            tuple(message.client_ids[place] for place in places),
            b"".join(channel[place] for place in places),
            b"".join(mask[place] for place in places),
        )

    return tweak


def with_key(name: str, place: int, key: bytes | tuple[str, int]):
    """PeerKeys with one key replaced, by another of the same message if ``key`` says which."""

    def tweak(message: PeerKeys) -> PeerKeys:
        keys = split(getattr(message, name), 32)
        keys[place] = key if isinstance(key, bytes) else split(getattr(message, key[0]), 32)[key[1]]
        return replace(message, **{name: b"".join(keys)})

    return tweak


def with_one_more_client(message: PeerKeys) -> PeerKeys:
    new_keys = [reference.x25519_public(bytes([number]) * 32) for number in (1, 2)]
    return PeerKeys(
        message.session_id,
        (0, *message.client_ids),
        new_keys[0] + message.channel_public_keys,
        new_keys[1] + message.mask_public_keys,
    )


def with_ids(*client_ids: int):
    return lambda message: replace(message, client_ids=client_ids)


def resized(name: str, change: int):
    """A field with bytes or flags cut off, or more of them added."""

    def tweak(message):
        value = getattr(message, name)
        filler = b"\0" if isinstance(value, bytes) else (True,)
        return replace(message, **{name: value[:change] if change < 0 else value + filler * change})

    return tweak


def with_shared(*places: int):
    """PeerShares of only these places, with the shares that belong to them."""

    def tweak(message: PeerShares) -> PeerShares:
        others = [place for place in range(5) if place != OWN_PLACE]
        items = dict(zip(others, split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES), strict=True))
        return PeerShares(
            message.session_id,
            tuple(place in places for place in range(5)),
            b"".join(items[place] for place in places if place != OWN_PLACE),
        )

    return tweak


def with_survivors(*places: int):
    return lambda message: replace(message, survivors=tuple(place in places for place in range(5)))


def with_damaged_shares(*numbers: int):
    """PeerShares with a bit flipped in some of the encrypted shares."""

    def tweak(message: PeerShares) -> PeerShares:
        data = bytearray(message.encrypted_shares)
        for number in numbers:
            data[number * ENCRYPTED_SHARES_BYTES + 7] ^= 1
        return replace(message, encrypted_shares=bytes(data))

    return tweak


CHANNEL, MASK = "channel_public_keys", "mask_public_keys"

CASES = [
    Case("keys of two clients", Rule.TOO_FEW_PEERS, PeerKeys, keep(1, 4)),
    Case("keys of this client alone", Rule.TOO_FEW_PEERS, PeerKeys, keep(1)),
    Case("two clients shared", Rule.TOO_FEW_PEERS, PeerShares, with_shared(1, 2)),
    Case("two clients survive", Rule.TOO_FEW_PEERS, SurvivorList, with_survivors(0, 1)),
    Case("six clients", Rule.TOO_MANY_PEERS, PeerKeys, with_one_more_client),
    Case("keys of others only", Rule.SELF_MISSING, PeerKeys, keep(0, 2, 3, 4)),
    Case("no keys at all", Rule.SELF_MISSING, PeerKeys, keep()),
    Case("others shared", Rule.SELF_MISSING, PeerShares, with_shared(0, 2, 3, 4)),
    Case("others survive", Rule.SELF_MISSING, SurvivorList, with_survivors(0, 3, 4)),
    Case("nobody survives", Rule.SELF_MISSING, SurvivorList, with_survivors()),
    Case("own channel key changed", Rule.KEYS_OF_SELF_CHANGED, PeerKeys, with_key(CHANNEL, 1, bytes([9] * 32))),
    Case("own mask key changed", Rule.KEYS_OF_SELF_CHANGED, PeerKeys, with_key(MASK, 1, bytes([9] * 32))),
    Case("own mask key is the channel key", Rule.KEYS_OF_SELF_CHANGED, PeerKeys, with_key(MASK, 1, (CHANNEL, 1))),
    Case("two ids swapped", Rule.IDS_NOT_ASCENDING, PeerKeys, with_ids(3, 17, 2**31, 1000, 2**32 - 1)),
    Case("an id twice", Rule.IDS_NOT_ASCENDING, PeerKeys, with_ids(3, 17, 1000, 1000, 2**32 - 1)),
    Case("own id twice", Rule.IDS_NOT_ASCENDING, PeerKeys, with_ids(17, 17, 1000, 2**31, 2**32 - 1)),
    Case("a channel key twice", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_key(CHANNEL, 0, (CHANNEL, 4))),
    Case("a mask key twice", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_key(MASK, 3, (MASK, 4))),
    Case("a mask key as channel key", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_key(CHANNEL, 2, (MASK, 2))),
    Case("own mask key for a peer too", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_key(MASK, 0, (MASK, 1))),
    *(
        Case(f"{field}: {name}", Rule.INVALID_PUBLIC_KEY, PeerKeys, with_key(field, place, point), (client_id,))
        for field, place, client_id in [(CHANNEL, 0, 3), (MASK, 4, 2**32 - 1)]
        for name, point in BAD_POINTS.items()
    ),
    Case("a channel key too few", Rule.WRONG_SIZE, PeerKeys, resized(CHANNEL, -32)),
    Case("a byte too many", Rule.WRONG_SIZE, PeerKeys, resized(MASK, 1)),
    Case("a client too few", Rule.WRONG_SIZE, PeerKeys, with_ids(3, 17, 1000, 2**31)),
    Case("a flag too few", Rule.WRONG_SIZE, PeerShares, resized("shared", -1)),
    Case("a flag too many", Rule.WRONG_SIZE, PeerShares, resized("shared", 1)),
    Case("no flags", Rule.WRONG_SIZE, PeerShares, resized("shared", -5)),
    Case("a share too few", Rule.WRONG_SIZE, PeerShares, resized("encrypted_shares", -ENCRYPTED_SHARES_BYTES)),
    Case("a share too many", Rule.WRONG_SIZE, PeerShares, resized("encrypted_shares", ENCRYPTED_SHARES_BYTES)),
    Case("a share's byte too few", Rule.WRONG_SIZE, PeerShares, resized("encrypted_shares", -1)),
    Case("a survivor's flag too few", Rule.WRONG_SIZE, SurvivorList, resized("survivors", -1)),
    Case("a survivor's flag too many", Rule.WRONG_SIZE, SurvivorList, resized("survivors", 1)),
    Case("no survivors' flags", Rule.WRONG_SIZE, SurvivorList, resized("survivors", -5)),
    *(
        Case(
            f"damaged shares of {culprits}",
            Rule.TOO_FEW_VALID_SHARES,
            PeerShares,
            with_damaged_shares(*(OTHERS.index(client_id) for client_id in culprits)),
            culprits,
        )
        for culprits in [(3, 1000, 2**32 - 1), OTHERS]
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule.name}: {case.name}")
def test_a_broken_rule_is_named_and_leaves_no_secret(case):
    client, _ = script().client(PHASE_OF[case.kind], ALICE)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(case.tweak(script().message(case.kind, ALICE)))
    assert refusal.value.rule is case.rule
    assert refusal.value.culprits == case.culprits
    assert case.rule.value in str(refusal.value)
    assert_dead(client)


def client_whose_first_peer_shared_nothing():
    """A client in MASKED to which the server said that client 3 had not shared its keys."""
    client, _ = script().client(ClientPhase.SHARED_KEYS, ALICE)
    client.receive(with_shared(1, 2, 3, 4)(script().message(PeerShares, ALICE)))
    client.submit_input(script().inputs[ALICE])
    return client


def test_a_survivor_that_had_not_shared_its_keys_is_refused():
    client = client_whose_first_peer_shared_nothing()
    with pytest.raises(RemoteProtocolError, match="clients 3") as refusal:
        client.receive(with_survivors(0, 1, 2, 3)(script().message(SurvivorList, ALICE)))
    assert refusal.value.rule is Rule.SURVIVORS_NOT_SUBSET
    assert_dead(client)


def test_of_a_client_that_had_not_shared_its_keys_no_share_is_released():
    client = client_whose_first_peer_shared_nothing()
    (answer,) = client.receive(with_survivors(1, 2, 3, 4)(script().message(SurvivorList, ALICE)))
    assert answer.message.held == (False, True, True, True, True)
    assert answer.message.shares.shape[0] == 4


def test_every_rule_has_a_test():
    """Those of the table, and the three that other tests of this file trigger."""
    elsewhere = {Rule.UNEXPECTED_MESSAGE, Rule.WRONG_SESSION, Rule.SURVIVORS_NOT_SUBSET}
    assert {case.rule for case in CASES} | elsewhere == set(Rule)
    assert not {case.rule for case in CASES} & elsewhere


@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: f"{case.rule.name}: {case.name}")
def test_the_refusal_itself_keeps_no_secret_alive(case):
    """Hosts keep exceptions, and error reporters print their frames: the library's own must hold nothing by then."""
    client, _ = script().client(PHASE_OF[case.kind], ALICE)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(case.tweak(script().message(case.kind, ALICE)))
    frames = frames_of(refusal.value, "secagg")
    assert frames
    assert secrets_in(script().secrets(ALICE), refusal.value.args, *frames) == set()


# --- Limits: what is just still accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_peers", [3, 4, 5])
def test_as_many_peers_as_the_threshold_are_enough(num_peers):
    client, _ = script().client(ClientPhase.ADVERTISED, ALICE)
    (event,) = client.receive(keep(*range(num_peers))(script().message(PeerKeys, ALICE)))
    assert len(event.message.encrypted_shares) == (num_peers - 1) * ENCRYPTED_SHARES_BYTES


def test_shares_that_do_not_authenticate_are_named_and_survived():
    """Two of four shares are damaged; with its own the client still holds the three that it needs."""
    client, _ = script().client(ClientPhase.SHARED_KEYS, ALICE)
    (event,) = client.receive(with_damaged_shares(0, 3)(script().message(PeerShares, ALICE)))
    assert event == InputRequested(rejected_shares=(3, 2**32 - 1))
    client.submit_input(script().inputs[ALICE])
    (answer,) = client.receive(with_survivors(0, 1, 3, 4)(script().message(SurvivorList, ALICE)))
    assert answer.message.held == (False, True, True, True, False)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 1, 2, 0)], ids=["two neighbours swapped", "the ends swapped"])
def test_shares_of_one_sender_are_not_taken_for_anothers(order):
    client, _ = script().client(ClientPhase.SHARED_KEYS, ALICE)
    message = script().message(PeerShares, ALICE)
    items = split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES)
    (event,) = client.receive(replace(message, encrypted_shares=b"".join(items[place] for place in order)))
    assert event.rejected_shares == tuple(OTHERS[number] for number in range(4) if order[number] != number)


def test_shares_meant_for_another_receiver_are_rejected():
    client, _ = script().client(ClientPhase.SHARED_KEYS, ALICE)
    own, other = (script().message(PeerShares, client_id) for client_id in (ALICE, 2**31))
    own_items, other_items = (split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES) for message in (own, other))
    # Both lists open with what client 3 sent, to ALICE and to the other.
    mixed = b"".join([other_items[0], *own_items[1:]])
    (event,) = client.receive(replace(own, encrypted_shares=mixed))
    assert event.rejected_shares == (3,)


def test_own_shares_sent_back_as_a_peers_are_rejected():
    """Each direction of a channel has its own key: the server cannot reflect a client's shares."""
    client, _ = script().client(ClientPhase.SHARED_KEYS, ALICE)
    message = script().message(PeerShares, ALICE)
    sent = script().client(ClientPhase.ADVERTISED, ALICE)[0].receive(script().message(PeerKeys, ALICE))
    reflected = sent[0].message.encrypted_shares[:ENCRYPTED_SHARES_BYTES]
    mixed = reflected + message.encrypted_shares[ENCRYPTED_SHARES_BYTES:]
    (event,) = client.receive(replace(message, encrypted_shares=mixed))
    assert event.rejected_shares == (3,)


def test_shares_outside_the_field_are_rejected_even_if_they_authenticate():
    """A malicious peer encrypts limbs of 0xffff: they are no field elements, so they are no shares."""
    recorded = script()
    alice, sender = (
        reference.Client(None, recorded.session_id, client_id, recorded.cohort.entropy[client_id].draws)
        for client_id in (ALICE, 3)
    )
    bound = b"secagg/1 encrypted shares" + recorded.session_id + reference.id_bytes(3, ALICE)
    key, _ = sender.channel_keys(ALICE, alice.channel_public_key)
    forged = reference.AESGCM(key).encrypt(bytes(12), b"\xff" * 36, bound)
    client, _ = recorded.client(ClientPhase.SHARED_KEYS, ALICE)
    message = recorded.message(PeerShares, ALICE)
    mixed = forged + message.encrypted_shares[ENCRYPTED_SHARES_BYTES:]
    (event,) = client.receive(replace(message, encrypted_shares=mixed))
    assert event.rejected_shares == (3,)


def test_of_each_peer_exactly_one_of_the_two_shares_is_released():
    """The heart of double masking: of a survivor the self mask's share, of one that vanished the mask key's."""
    client, _ = script().client(ClientPhase.MASKED, ALICE)
    (answer,) = client.receive(script().message(SurvivorList, ALICE))
    released = answer.message.shares
    assert released.shape == (5, 9)
    recorded = script()
    for owner, row in zip(IDS, released.tolist(), strict=True):
        model = reference.Client(
            reference.Numbers(5, 3, 4, 40, 16, 19), recorded.session_id, owner, recorded.cohort.entropy[owner].draws
        )
        mask_key_share, self_mask_share = model.share(OWN_PLACE)
        assert row == (mask_key_share if owner == VANISHED else self_mask_share)


def test_a_message_type_has_room_for_one_share_of_a_peer():
    assert [field.name for field in dataclasses.fields(UnmaskingShares)] == ["session_id", "held", "shares"]


def test_two_sessions_that_differ_in_context_share_no_mask():
    """The same clients with the same randomness: what a client sends is different throughout."""
    params = make_params(3, 2, vector_length=64, value_bits=8)
    inputs = random_inputs(params, seed=1)
    first, second = (Script(params, inputs, {}, seed="same") for _ in range(2))
    assert first.message(MaskedInput, 0) == second.message(MaskedInput, 0)
    other = first.cohort
    other.context = b"another model"
    other.run()
    changed = first.message(MaskedInput, 0).masked_input
    assert np.count_nonzero(changed == second.message(MaskedInput, 0).masked_input) < 8
