"""No object of the server, no text and no error shows a client's secrets."""

import numpy as np
import pytest

from secagg import ClientPhase, Identity, PinnedKeys, RemoteProtocolError, ServerPhase, UnmaskReady
from secagg._client import states
from secagg.masking import self_mask
from secagg.messages import MaskedInput, SurvivorList, UnmaskingShares
from secagg.primitives.agreement import SecretKey
from secagg.primitives.prg import Keystream, KeystreamReader
from secagg.primitives.signing import SigningKey
from secagg.sharing import ShareChannel
from secagg.unmask_job import RecoveredMaskKey
from tests import reference
from tests.secagg.client_cases import BROKEN
from tests.secagg.machines import ALICE, ALL_MESSAGES, HONEST, MALICIOUS, MODES, VANISHED, Halt, halts, script
from tests.secagg.object_graph import frames_of, reachable, secrets_in, vector_encodings
from tests.secagg.test_server_rules import AWAITED
from tests.support.sessions import Cohort, identity_of, make_params, random_inputs

# --- The walker ------------------------------------------------------------------------------------------------------

SECRET = b"a secret of 24 bytes ..."


class Holder:
    def __init__(self, content):
        self.content = content


class SlottedHolder:
    __slots__ = ("content",)

    def __init__(self, content):
        self.content = content


def closure_over(content):
    return lambda: content


def generator_over(content):
    yield 1
    yield content


def started(generator):
    next(generator)
    return generator


HIDING_PLACES = {
    "itself": SECRET,
    "part of longer bytes": b"x" + SECRET + b"y",
    "a bytearray": bytearray(SECRET),
    "a memoryview": memoryview(SECRET),
    "a slice of a memoryview": memoryview(b"x" + SECRET)[1:5],
    "an array": np.frombuffer(SECRET, dtype=np.uint8),
    "a small view of an array": np.frombuffer(SECRET, dtype=np.uint8)[:1],
    "an array of objects": np.array([None, Holder(SECRET)], dtype=object),
    "nested containers": [{"a": ({SECRET},)}],
    "a key of a dict": {SECRET: 1},
    "an attribute": Holder([SECRET]),
    "a slot": SlottedHolder(SlottedHolder(SECRET)),
    "a closure": closure_over(SECRET),
    "a default argument": lambda content=SECRET: None,
    "a bound method": Holder(SECRET).__init__,
    "a suspended generator": started(generator_over(SECRET)),
    "a list of ints": list(SECRET),
    "an int": int.from_bytes(SECRET, "big"),
    "a text": "x" + SECRET.decode(),
}


@pytest.mark.parametrize("place", HIDING_PLACES.values(), ids=HIDING_PLACES)
def test_the_walker_finds_what_is_there(place):
    assert secrets_in({"secret": SECRET}, Holder([place])) == {"secret"}
    assert secrets_in({"another": b"not in there at all ...."}, Holder([place])) == set()


def test_the_walker_finds_vectors_of_any_width():
    vector = np.arange(1000, 1040)
    secret = {"vector": vector_encodings(vector)}
    for other in (vector, vector.astype("<u2"), vector.astype(">u8"), vector.tolist(), tuple(vector.tolist())):
        assert secrets_in(secret, Holder(other)) == {"vector"}
    assert secrets_in(secret, Holder(vector + 1)) == set()


def test_the_frames_of_an_error_are_found_behind_other_errors():
    """This is the positive control of the tests that look into errors for secrets."""

    def raise_with(local):
        raise ValueError("inner")

    try:
        try:
            raise_with(SECRET)
        except ValueError:
            raise KeyError("outer") from None
    except KeyError as error:
        frames = frames_of(error, __name__.split(".")[0])
    assert secrets_in({"secret": SECRET}, *frames) == {"secret"}
    assert frames_of(ValueError("never raised"), "secagg") == []


def test_the_walker_reports_what_it_cannot_look_into():
    assert secrets_in({}, SecretKey(bytes(range(32)))) == {"a X25519PrivateKey object"}
    assert secrets_in({}, Keystream(bytes(16))) == {"a AESGCM object"}
    assert secrets_in({}, SigningKey(bytes(32))) == {"a Ed25519PrivateKey object"}


# --- The server's objects --------------------------------------------------------------------------------------------

PARAMS = make_params(5, 3, vector_length=50, value_bits=16)
INPUTS = random_inputs(PARAMS, seed=41)


def encodings(inputs) -> dict[str, list[bytes]]:
    found = {f"input of {i}": vector_encodings(vector) for i, vector in inputs.items()}
    return found | {f"packed input of {i}": [reference.pack(v.tolist(), PARAMS.ring_bits)] for i, v in inputs.items()}


def found_in_the_server_during_a_session(**options) -> set[str]:
    """Return every part of an input that the server reaches: before each message, and at the end."""
    found: set[str] = set()

    def uplink(client_id, message):
        found.update(secrets_in(encodings(INPUTS), cohort.server))
        return message

    cohort = Cohort(PARAMS, INPUTS, uplink=uplink, **options)
    outcome = cohort.run()
    return found | secrets_in(encodings(INPUTS), outcome.server, outcome.end)


@pytest.mark.parametrize("missing_from", [{}, {3: 2, 4: 3}])
def test_nothing_of_an_input_is_reachable_from_the_server(missing_from):
    assert found_in_the_server_during_a_session(missing_from=missing_from) == set()


def test_it_would_be_found_if_it_were_there(monkeypatch):
    """Without masks the first masked input is the input, and stands in the running sum."""
    monkeypatch.setattr(states, "accumulate", lambda vector, masks: None)
    assert found_in_the_server_during_a_session() == {"input of 0"}


@pytest.mark.parametrize("halt", halts(ServerPhase), ids=str)
def test_nothing_that_a_client_keeps_to_itself_is_reachable_from_the_server(halt):
    server = halt.server()
    if halt.phase in AWAITED:
        for client_id, message in halt.script.client_messages[AWAITED[halt.phase]].items():
            server.receive(client_id, message)
    released = {"own share of self mask", f"pairwise mask key with {VANISHED}"}
    if halt.phase is not ServerPhase.UNMASKING:
        released = set()
    assert secrets_in(halt.script.secrets(ALICE), server) == released


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_a_session_that_is_over_keeps_no_vectors_or_shares(adversary, end):
    server = script(adversary).server_in(ServerPhase.COMPLETED if end == "completed" else ServerPhase.UNMASKING)
    if end == "cancelled":
        for client_id, message in script(adversary).client_messages[UnmaskingShares].items():
            server.receive(client_id, message)
        server.abort()
    assert not [thing for thing in reachable(server) if isinstance(thing, np.ndarray)]


# --- Texts -----------------------------------------------------------------------------------------------------------


def texts_of(thing) -> str:
    return f"{thing!r} {thing!s} {thing}"


def shown(secrets, text: str) -> set[str]:
    """Return the secrets that a text shows: as printed bytes, in hex, or as numbers."""
    found = set()
    for name, encodings_ in secrets.items():
        for secret in [encodings_] if isinstance(encodings_, bytes) else encodings_:
            forms = {secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1], str(int.from_bytes(secret, "big"))}
            # The beginning of a long secret is bad enough.
            forms |= {secret[:12].hex(), repr(secret[:12])[2:-1]}
            found |= {name for form in forms if form in text}
    return found


def test_shown_finds_what_is_there():
    for text in (f"x{SECRET!r}", f"{SECRET.hex()}", f"{list(SECRET)}", f"{np.frombuffer(SECRET, np.uint8).tolist()}"):
        assert shown({"secret": SECRET}, text) == {"secret"}
    assert shown({"secret": SECRET}, repr(SECRET[::-1])) == set()


@pytest.mark.parametrize("halt", halts(ClientPhase), ids=str)
def test_a_client_does_not_show_its_secrets(halt):
    client, secrets = halt.client(), halt.script.secrets(ALICE)
    assert str(ALICE) in repr(client)
    assert halt.phase.name in repr(client)
    assert shown(secrets, texts_of(client)) == set()
    assert shown(secrets, texts_of(client._state)) == set()
    assert shown(secrets, texts_of(client._state.setup)) == set()


@pytest.mark.parametrize("halt", halts(ServerPhase), ids=str)
def test_a_server_does_not_show_secrets(halt):
    server = halt.server()
    assert halt.phase.name in repr(server)
    texts = texts_of(server) + texts_of(server.status) + texts_of(server.params)
    for client_id in (ALICE, VANISHED):
        assert shown(halt.script.secrets(client_id), texts) == set()


@pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_messages_do_not_show_secrets(adversary, kind):
    message = script(adversary).message(kind, ALICE)
    assert kind.__name__ in repr(message)
    assert shown(script(adversary).secrets(ALICE), texts_of(message)) == set()


def test_released_shares_are_not_shown():
    """They are for the server, not for its log: with enough of them the log would unmask."""
    message = script().message(UnmaskingShares, ALICE)
    text = texts_of(message)
    assert "redacted" in text
    for share in message.shares.tolist():
        assert all(str(limb) not in text for limb in share)


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_events_do_not_show_secrets(adversary):
    recorded = script(adversary)
    created, _ = recorded.client(ClientPhase.CREATED, ALICE)
    masked, _ = recorded.client(ClientPhase.MASKED, ALICE)
    events: list[object] = [*created.start(), *masked.receive(recorded.message(SurvivorList, ALICE))]
    events += [UnmaskReady(recorded.job), recorded.job, recorded.end]
    text = "".join(map(texts_of, events))
    for client_id in recorded.inputs:
        assert shown(recorded.secrets(client_id), text) == set()


def test_the_sum_is_not_shown():
    """The sum is the application's: a log of events must not leak it."""
    text = texts_of(script().end)
    assert all(str(element) not in text for element in script().end.sum.tolist())


@pytest.mark.parametrize("broken", BROKEN[::4], ids=str)
def test_refusals_do_not_show_secrets(broken):
    client = broken.client()
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(broken.message())
    error = refusal.value
    assert shown(broken.script.secrets(ALICE), texts_of(error) + repr(error.args) + repr(vars(error))) == set()


def test_an_identity_that_was_handed_in_stays_the_hosts():
    """The client drops it at its end; the host's object still works, and is not copied."""
    secret = {"identity": identity_of(ALICE).to_bytes()}
    for phase in (ClientPhase.FINISHED, ClientPhase.ABORTED, ClientPhase.SUSPENDED):
        client = Halt(MALICIOUS, phase).client()
        assert secrets_in(secret, client) == set()
    assert secrets_in(secret, Halt(MALICIOUS, ClientPhase.SURVIVORS_SIGNED).client()) >= {"identity"}
    assert secrets_in(secret, Halt(MALICIOUS, ClientPhase.MASKED).client().suspend()) == set()


def test_a_directory_is_not_kept_by_a_client_that_is_done():
    """A directory may reach anything in the application."""
    for phase in (ClientPhase.FINISHED, ClientPhase.ABORTED, ClientPhase.SUSPENDED):
        assert not [thing for thing in reachable(Halt(MALICIOUS, phase).client()) if isinstance(thing, PinnedKeys)]


def test_helpers_do_not_show_their_keys():
    key = bytes(range(100, 132))
    holders = [
        SecretKey(key),
        SigningKey(key),
        Identity(key),
        Keystream(key[:16]),
        KeystreamReader(key[:16]),
        ShareChannel(key[:16], key[16:]),
        self_mask(key[:16], bytes(32), 1),
        RecoveredMaskKey(1, key[:16], (2,), (reference.x25519_public(key),)),
    ]
    secrets = {"key": key, "half": key[:16], "other half": key[16:]}
    secrets["mask key"] = reference.self_mask_key(key[:16], bytes(32), 1)
    assert shown(secrets, "".join(map(texts_of, holders))) == set()


def test_masked_inputs_are_sent_and_not_kept():
    client = Halt(HONEST, ClientPhase.INPUT_REQUESTED).client()
    (event,) = client.submit_input(script().inputs[ALICE])
    assert isinstance(event.message, MaskedInput)
    kept = [thing for thing in reachable(client) if isinstance(thing, np.ndarray)]
    assert all(not np.shares_memory(event.message.masked_input, array) for array in kept)
