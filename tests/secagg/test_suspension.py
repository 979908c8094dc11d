"""suspend() moves a client into bytes and out again: same answers, one life, and no damage goes unnoticed."""

import hashlib
import os
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Client, ClientPhase, LocalProtocolError
from secagg.messages import AdvertiseKeys, MaskedInput, PeerKeys, PeerShares, ShareKeys, SurvivorList, UnmaskingShares
from tests.secagg.machines import ALICE, script
from tests.secagg.object_graph import frames_of, secrets_in

DEAD = (ClientPhase.ABORTED, ClientPhase.SUSPENDED)
LIVE = [phase for phase in ClientPhase if phase not in DEAD]

MAGIC = b"secagg client"
CHECKSUM_BYTES = 16


def suspended(phase: ClientPhase) -> bytes:
    return script().client(phase, ALICE)[0].suspend()


def with_checksum(body: bytes) -> bytes:
    """What a host could forge; the checksum is against accidents."""
    return MAGIC + hashlib.sha256(body).digest()[:CHECKSUM_BYTES] + body


def body_of(blob: bytes) -> list:
    return msgpack.unpackb(blob[len(MAGIC) + CHECKSUM_BYTES :], use_list=False)


@pytest.mark.parametrize("phase", LIVE, ids=lambda phase: phase.name)
def test_a_resumed_client_is_where_it_was_and_the_old_one_is_dead(phase):
    client, entropy = script().client(phase, ALICE)
    blob = client.suspend()
    assert type(blob) is bytes
    assert client.phase is ClientPhase.SUSPENDED
    assert secrets_in(script().secrets(ALICE), client) == set()
    for call in (client.start, client.suspend, lambda: client.receive(script().message(PeerKeys, ALICE))):
        with pytest.raises(LocalProtocolError, match="SUSPENDED"):
            call()
    client.abort()
    assert client.phase is ClientPhase.SUSPENDED, "what has moved away cannot be aborted here"
    resumed = Client.resume(blob, entropy=entropy)
    assert resumed.phase is phase
    assert (resumed.client_id, resumed.session_id, resumed.params) == (ALICE, client.session_id, client.params)
    assert resumed.suspend() == blob, "nothing is lost or added on the way"


@pytest.mark.parametrize("phase", LIVE, ids=lambda phase: phase.name)
def test_a_resumed_client_goes_on_to_the_same_messages(phase):
    recorded = script()
    client, entropy = recorded.client(phase, ALICE)
    steps = {
        ClientPhase.CREATED: lambda client: client.start(),
        ClientPhase.ADVERTISED: lambda client: client.receive(recorded.message(PeerKeys, ALICE)),
        ClientPhase.SHARED_KEYS: lambda client: client.receive(recorded.message(PeerShares, ALICE)),
        ClientPhase.INPUT_REQUESTED: lambda client: client.submit_input(recorded.inputs[ALICE]),
        ClientPhase.MASKED: lambda client: client.receive(recorded.message(SurvivorList, ALICE)),
    }
    while client.phase is not ClientPhase.FINISHED:
        client = Client.resume(client.suspend(), entropy=entropy)
        for event in steps[client.phase](client):
            if hasattr(event, "message"):
                assert event.message == recorded.message(type(event.message), ALICE)


@pytest.mark.parametrize("phase", DEAD, ids=lambda phase: phase.name)
def test_the_dead_cannot_be_suspended(phase):
    client, _ = script().client(phase, ALICE)
    with pytest.raises(LocalProtocolError, match=phase.name):
        client.suspend()


def test_a_client_that_is_resumed_twice_sends_the_same_shares_again():
    """A host that crashed resumes what it stored: other shares under the same keys would give both away."""
    blob = suspended(ClientPhase.ADVERTISED)
    for _ in range(2):
        (event,) = Client.resume(blob).receive(script().message(PeerKeys, ALICE))
        assert event.message == script().message(ShareKeys, ALICE)


def test_a_client_that_has_not_started_draws_from_the_source_that_it_is_resumed_with():
    blob = suspended(ClientPhase.CREATED)
    (by_default,) = Client.resume(blob).start()
    assert by_default.message != script().message(AdvertiseKeys, ALICE), "the system's randomness"
    _, entropy = script().client(ClientPhase.CREATED, ALICE)
    (seeded,) = Client.resume(blob, entropy=entropy).start()
    assert seeded.message == script().message(AdvertiseKeys, ALICE)


def test_each_phase_keeps_only_what_it_needs():
    """The masked input is out: seeds and input are in nobody's file any more."""
    secrets = script().secrets(ALICE)
    assert "draw 1" in secrets_in(secrets, suspended(ClientPhase.INPUT_REQUESTED))
    assert secrets_in(secrets, suspended(ClientPhase.MASKED)) == {"own share of mask key", "own share of self mask"}
    assert secrets_in(secrets, suspended(ClientPhase.FINISHED)) == set()


# --- Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", LIVE, ids=lambda phase: phase.name)
def test_a_blob_with_any_one_byte_changed_is_refused(phase):
    blob = suspended(phase)
    # Every byte of the head, and a sample of the rest: the checksum does not care where.
    for position in [*range(48), *range(48, len(blob), 11), len(blob) - 1]:
        damaged = bytearray(blob)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(LocalProtocolError):
            Client.resume(bytes(damaged))


@pytest.mark.parametrize("phase", LIVE, ids=lambda phase: phase.name)
def test_a_blob_that_is_cut_short_or_too_long_is_refused(phase):
    blob = suspended(phase)
    for wrong in [*(blob[:size] for size in range(0, len(blob), 7)), blob[:-1], blob[1:], blob + b"\0", blob + blob]:
        with pytest.raises(LocalProtocolError):
            Client.resume(wrong)


@pytest.mark.parametrize("version", [0, 2, 255, -1, None, "1"])
def test_a_blob_of_another_version_is_refused(version):
    _, *rest = body_of(suspended(ClientPhase.MASKED))
    with pytest.raises(LocalProtocolError, match="version"):
        Client.resume(with_checksum(msgpack.packb([version, *rest])))


@pytest.mark.parametrize("garbage", [None, 7, "text", [], {}, b"", b"secagg client", os.urandom(200), bytearray(200)])
def test_garbage_is_refused(garbage):
    with pytest.raises(LocalProtocolError):
        Client.resume(garbage)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_blob_may_come_in_any_kind_of_buffer(kind):
    blob = suspended(ClientPhase.MASKED)
    assert Client.resume(kind(blob)).suspend() == blob


@pytest.mark.parametrize("phase", ["MISSING", "masked", None, 3, [], b"MASKED"])
def test_a_blob_of_an_unknown_phase_is_refused(phase):
    version, _, *rest = body_of(suspended(ClientPhase.MASKED))
    with pytest.raises(LocalProtocolError):
        Client.resume(with_checksum(msgpack.packb([version, phase, *rest])))


def test_a_blob_with_the_fields_of_another_phase_is_refused():
    version, _, *rest = body_of(suspended(ClientPhase.MASKED))
    with pytest.raises(LocalProtocolError):
        Client.resume(with_checksum(msgpack.packb([version, "ADVERTISED", *rest])))


def test_a_blob_with_impossible_parameters_is_refused():
    version, phase, params, *rest = body_of(suspended(ClientPhase.MASKED))
    for change in [{"threshold": 1}, {"ring_bits": 99}, {"adversary": "nobody"}, {"extra": 1}]:
        with pytest.raises(LocalProtocolError):
            Client.resume(with_checksum(msgpack.packb([version, phase, {**params, **change}, *rest])))


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_behind_a_right_checksum_are_refused(body):
    with pytest.raises(LocalProtocolError):
        Client.resume(with_checksum(body))


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
)
_values = _scalars | st.lists(_scalars, max_size=3) | st.dictionaries(st.text(max_size=3), _scalars, max_size=3)


@settings(max_examples=200)
@given(st.lists(_values, max_size=7))
def test_any_values_behind_a_right_checksum_are_refused(values):
    with pytest.raises(LocalProtocolError):
        Client.resume(with_checksum(msgpack.packb(values)))


def test_the_refusal_of_a_damaged_blob_keeps_no_secret_alive():
    """The error travels far: into logs and reports, with its frames, and with the error that it stands for."""
    version, phase, params, client_id, session_id, values = body_of(suspended(ClientPhase.INPUT_REQUESTED))
    blob = with_checksum(msgpack.packb([version, phase, params, client_id, session_id, {**values, "more": 1}]))
    secrets = script().secrets(ALICE)
    assert "draw 1" in secrets_in(secrets, blob)
    with pytest.raises(LocalProtocolError) as refusal:
        Client.resume(blob)
    frames = frames_of(refusal.value, "secagg")
    # The blob itself is the caller's; what the library unpacked of it is not.
    unpacked = [value for frame in frames for value in frame.f_locals.values() if type(value) is not bytes]
    assert secrets_in(secrets, *unpacked) == set()


def test_messages_compare_by_value():
    """The comparisons above would be worthless if equal meant anything else."""
    for kind in (MaskedInput, UnmaskingShares):
        one, other = (script().message(kind, client_id) for client_id in (ALICE, 3))
        assert one == replace(one)
        assert one != other
        assert one != "another type"
