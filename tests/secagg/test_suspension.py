"""suspend() turns a client into bytes and back: same answers, one life, and all damage is noticed."""

import hashlib
from dataclasses import replace
from random import Random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Adversary, Client, ClientPhase, LocalProtocolError, RemoteProtocolError, Rule, TrustOnFirstUse
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests.secagg.machines import ALICE, HONEST, IDS, MALICIOUS, MODES, Halt, halts, script
from tests.secagg.object_graph import frames_of, secrets_in
from tests.support.sessions import directory_of, identity_of

DEAD = (ClientPhase.ABORTED, ClientPhase.SUSPENDED)
LIVE = [phase for phase in ClientPhase if phase not in DEAD]

MAGIC = b"secagg client"
CHECKSUM_BYTES = 16


def suspended(phase: ClientPhase, adversary: Adversary = HONEST) -> bytes:
    return Halt(adversary, phase).client().suspend()


def resume(blob, **options) -> Client:
    """Resume a malicious session's client with the host that it had before."""
    return Client.resume(blob, **{**script(MALICIOUS).host_of(ALICE), **options})


def with_checksum(body: bytes) -> bytes:
    """Return the blob with a valid checksum, as a host could forge it; the checksum is against accidents."""
    return MAGIC + hashlib.sha256(body).digest()[:CHECKSUM_BYTES] + body


def body_of(blob: bytes) -> list:
    return msgpack.unpackb(blob[len(MAGIC) + CHECKSUM_BYTES :], use_list=False)


@pytest.mark.parametrize("halt", halts(LIVE), ids=str)
def test_a_resumed_client_is_where_it_was_and_the_old_one_is_dead(halt):
    recorded = halt.script
    client, entropy = recorded.client(halt.phase, ALICE)
    blob = client.suspend()
    assert type(blob) is bytes
    assert client.phase is ClientPhase.SUSPENDED
    assert secrets_in(recorded.secrets(ALICE), client) == set()
    for call in (client.start, client.suspend, lambda: client.receive(recorded.message(PeerKeys, ALICE))):
        with pytest.raises(LocalProtocolError, match="SUSPENDED"):
            call()
    client.abort()
    assert client.phase is ClientPhase.SUSPENDED, "a client that moved away cannot be aborted here"
    resumed = Client.resume(blob, entropy=entropy, **recorded.host_of(ALICE))
    assert resumed.phase is halt.phase
    assert (resumed.client_id, resumed.session_id, resumed.params) == (ALICE, client.session_id, client.params)
    assert resumed.suspend() == blob, "no byte is lost or added on the way"


@pytest.mark.parametrize("halt", halts(LIVE), ids=str)
def test_a_resumed_client_sends_the_same_messages(halt):
    recorded = halt.script
    client, entropy = recorded.client(halt.phase, ALICE)
    steps = {
        ClientPhase.CREATED: lambda client: client.start(),
        ClientPhase.ADVERTISED: lambda client: client.receive(recorded.message(PeerKeys, ALICE)),
        ClientPhase.SHARED_KEYS: lambda client: client.receive(recorded.message(PeerShares, ALICE)),
        ClientPhase.INPUT_REQUESTED: lambda client: client.submit_input(recorded.inputs[ALICE]),
        ClientPhase.MASKED: lambda client: client.receive(recorded.message(SurvivorList, ALICE)),
        ClientPhase.SURVIVORS_SIGNED: lambda client: client.receive(recorded.message(ConsistencyProof, ALICE)),
    }
    while client.phase is not ClientPhase.FINISHED:
        client = Client.resume(client.suspend(), entropy=entropy, **recorded.host_of(ALICE))
        for event in steps[client.phase](client):
            if hasattr(event, "message"):
                assert event.message == recorded.message(type(event.message), ALICE)


@pytest.mark.parametrize("halt", halts(DEAD), ids=str)
def test_the_dead_cannot_be_suspended(halt):
    client = halt.client()
    with pytest.raises(LocalProtocolError, match=halt.phase.name):
        client.suspend()


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_a_client_that_is_resumed_twice_sends_the_same_shares_again(adversary):
    """A host that crashed resumes what it stored: other shares under the same keys would give both away."""
    recorded = script(adversary)
    blob = suspended(ClientPhase.ADVERTISED, adversary)
    for _ in range(2):
        (event,) = Client.resume(blob, **recorded.host_of(ALICE)).receive(recorded.message(PeerKeys, ALICE))
        assert event.message == recorded.message(ShareKeys, ALICE)


def test_a_client_that_has_not_started_draws_from_the_source_that_it_is_resumed_with():
    blob = suspended(ClientPhase.CREATED)
    (by_default,) = Client.resume(blob).start()
    assert by_default.message != script().message(AdvertiseKeys, ALICE), "the system's randomness"
    _, entropy = script().client(ClientPhase.CREATED, ALICE)
    (seeded,) = Client.resume(blob, entropy=entropy).start()
    assert seeded.message == script().message(AdvertiseKeys, ALICE)


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_each_phase_keeps_only_what_it_needs(adversary):
    """Once the masked input is sent, no blob holds seeds or input: the self-mask's key is gone with its seed."""
    secrets = script(adversary).secrets(ALICE)
    kept = {"own share of mask key", "own share of self mask"}
    kept |= {name for name in secrets if name.startswith("pairwise mask key with")}
    assert "draw 1" in secrets_in(secrets, suspended(ClientPhase.INPUT_REQUESTED, adversary))
    assert secrets_in(secrets, suspended(ClientPhase.MASKED, adversary)) == kept
    if adversary is MALICIOUS:
        assert secrets_in(secrets, suspended(ClientPhase.SURVIVORS_SIGNED, adversary)) == kept
    assert secrets_in(secrets, suspended(ClientPhase.FINISHED, adversary)) == set()


# --- Identities ------------------------------------------------------------------------------------------------------

SIGNING = [phase for phase in LIVE if phase is not ClientPhase.FINISHED]


@pytest.mark.parametrize("phase", LIVE, ids=lambda phase: phase.name)
def test_the_identity_is_not_in_the_blob(phase):
    """The identity is the host's: a lost blob costs one session, not the client's identity."""
    secret = identity_of(ALICE).to_bytes()
    blob = suspended(phase, MALICIOUS)
    assert secret not in blob
    assert secret[:16] not in blob
    assert (identity_of(ALICE).public_key in blob) == (phase in SIGNING), "the public key says whose blob it is"


@pytest.mark.parametrize("phase", SIGNING, ids=lambda phase: phase.name)
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"identity": identity_of(3)}, "another identity"),
        ({"identity": None}, "needs the client's identity"),
        ({"identity": identity_of(ALICE).to_bytes()}, "needs the client's identity"),
        ({"directory": None}, "needs a directory"),
        ({"directory": {}}, "needs a directory"),
    ],
    ids=["another", "none", "bytes", "no directory", "a dict"],
)
def test_resuming_needs_the_same_identity_and_a_directory(phase, change, match):
    blob = suspended(phase, MALICIOUS)
    with pytest.raises(LocalProtocolError, match=match) as refusal:
        resume(blob, **change)
    secrets = script(MALICIOUS).secrets(ALICE)
    del secrets["identity's secret key"]  # The caller passed it in.
    frames = frames_of(refusal.value, "secagg")
    unpacked = [value for frame in frames for value in frame.f_locals.values() if not isinstance(value, bytes | dict)]
    assert secrets_in(secrets, *unpacked) <= {"a Ed25519PrivateKey object"}
    assert resume(blob).phase is phase, "the blob is as good as before"


def test_a_directory_may_be_another_one_that_knows_more():
    directory = directory_of([*IDS, 5, 6])
    resumed = resume(suspended(ClientPhase.ADVERTISED, MALICIOUS), directory=directory)
    (event,) = resumed.receive(script(MALICIOUS).message(PeerKeys, ALICE))
    assert event.message == script(MALICIOUS).message(ShareKeys, ALICE)


def test_a_directory_is_asked_after_resuming():
    unknown = TrustOnFirstUse({3: identity_of(4711).public_key})
    resumed = resume(suspended(ClientPhase.ADVERTISED, MALICIOUS), directory=unknown)
    with pytest.raises(RemoteProtocolError) as refusal:
        resumed.receive(script(MALICIOUS).message(PeerKeys, ALICE))
    assert refusal.value.rule is Rule.IDENTITY_NOT_TRUSTED
    assert refusal.value.culprits == (3,)


def test_a_finished_client_needs_no_identity_any_more():
    assert Client.resume(suspended(ClientPhase.FINISHED, MALICIOUS)).phase is ClientPhase.FINISHED


# --- Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halt", halts(LIVE), ids=str)
def test_a_blob_with_any_one_byte_changed_is_refused(halt):
    blob = halt.client().suspend()
    # Every byte of the head, and a sample of the rest: the checksum treats all bytes alike.
    for position in [*range(48), *range(48, len(blob), 11), len(blob) - 1]:
        damaged = bytearray(blob)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(LocalProtocolError):
            Client.resume(bytes(damaged), **halt.script.host_of(ALICE))


@pytest.mark.parametrize("halt", halts(LIVE), ids=str)
def test_a_blob_that_is_cut_short_or_too_long_is_refused(halt):
    blob = halt.client().suspend()
    for wrong in [*(blob[:size] for size in range(0, len(blob), 7)), blob[:-1], blob[1:], blob + b"\0", blob + blob]:
        with pytest.raises(LocalProtocolError):
            Client.resume(wrong, **halt.script.host_of(ALICE))


@pytest.mark.parametrize("version", [0, 2, 255, -1, None, "1"])
def test_a_blob_of_another_version_is_refused(version):
    _, *rest = body_of(suspended(ClientPhase.MASKED))
    with pytest.raises(LocalProtocolError, match="version"):
        Client.resume(with_checksum(msgpack.packb([version, *rest])))


@pytest.mark.parametrize(
    "garbage", [None, 7, "text", [], {}, b"", b"secagg client", Random(5).randbytes(200), bytearray(200)]
)
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
    # The threshold is bytes 4 to 7, the ring's bits byte 21, the adversary byte 23.
    for changed in [
        params[:7] + b"\x01" + params[8:],
        params[:21] + b"\x63" + params[22:],
        params[:23] + b"\x03",
        params + b"\x00",
        b"",
        {},
    ]:
        with pytest.raises(LocalProtocolError):
            Client.resume(with_checksum(msgpack.packb([version, phase, changed, *rest])))


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
@given(st.lists(_values, max_size=9))
def test_any_values_behind_a_right_checksum_are_refused(values):
    with pytest.raises(LocalProtocolError):
        Client.resume(with_checksum(msgpack.packb(values)))


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_the_refusal_of_a_damaged_blob_keeps_no_secret_alive(adversary):
    """The error travels far: into logs and reports, with its frames, and with the error that it replaces."""
    *setup, values, transcript = body_of(suspended(ClientPhase.INPUT_REQUESTED, adversary))
    blob = with_checksum(msgpack.packb([*setup, {**values, "more": 1}, transcript]))
    secrets = script(adversary).secrets(ALICE)
    assert "draw 1" in secrets_in(secrets, blob)
    with pytest.raises(LocalProtocolError) as refusal:
        Client.resume(blob)
    frames = frames_of(refusal.value, "secagg")
    # The blob itself is the caller's; what the library unpacked from it is not.
    unpacked = [value for frame in frames for value in frame.f_locals.values() if type(value) is not bytes]
    assert secrets_in(secrets, *unpacked) == set()


def test_messages_compare_by_value():
    """The comparisons above would be worthless if equality meant anything else."""
    for kind in (MaskedInput, UnmaskingShares):
        one, other = (script().message(kind, client_id) for client_id in (ALICE, 3))
        assert one == replace(one)
        assert one != other
        assert one != "another type"


@pytest.mark.parametrize("adversary", [Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS])
@pytest.mark.parametrize("phase", [ClientPhase.ADVERTISED, ClientPhase.SHARED_KEYS, ClientPhase.MASKED])
def test_a_blob_whose_identity_was_taken_out_is_refused(phase, adversary):
    """Such a client would continue without checking a signature."""
    version, name, params, client_id, session_id, _, _, *rest = body_of(suspended(phase, adversary))
    forged = with_checksum(msgpack.packb([version, name, params, client_id, session_id, b"", b"", *rest]))
    with pytest.raises(LocalProtocolError, match="not a suspended client"):
        Client.resume(forged)
