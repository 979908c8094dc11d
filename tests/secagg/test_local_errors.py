"""Wrong calls: the caller gets an error, no state is consumed, and the session continues to its exact end."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest

from secagg import Client, ClientPhase, LocalProtocolError, PlanError, Server, ServerPhase
from secagg.messages import ConsistencyProof, MaskedInput, PeerKeys, PeerShares, SurvivorList, UnmaskingShares
from tests.secagg.machines import ALICE, MALICIOUS, MODES, PARAMS, halts, script
from tests.secagg.object_graph import secrets_in, vector_encodings
from tests.support.sessions import SeededEntropy, make_params

LENGTH, VALUE_BITS = 40, 16

FINE = np.arange(LENGTH, dtype=np.int64)


def with_element(value, dtype=np.int64):
    vector = FINE.astype(dtype)
    vector[7] = value
    return vector


WRONG_INPUTS = {
    "a list": FINE.tolist(),
    "bytes": bytes(LENGTH),
    "None": None,
    "an int": 7,
    "too short": FINE[:-1],
    "too long": np.arange(LENGTH + 1),
    "empty": FINE[:0],
    "two dimensions": FINE.reshape(1, -1),
    "a column": FINE.reshape(-1, 1),
    "no dimension": np.array(7),
    "floats": FINE.astype(np.float64),
    "half floats": FINE.astype(np.float16),
    "not a number": with_element(np.nan, np.float64),
    "infinite": with_element(np.inf, np.float32),
    "complex": FINE.astype(np.complex128),
    "bools": FINE.astype(bool),
    "objects": FINE.astype(object),
    "strings": FINE.astype(str),
    "times": FINE.astype("timedelta64[s]"),
    "records": np.zeros(LENGTH, dtype=[("value", np.int64)]),
    "negative": with_element(-1),
    "very negative": with_element(-(2**63)),
    "one above the range": with_element(2**VALUE_BITS),
    "the largest there is": with_element(2**64 - 1, np.uint64),
    "the ring's size": with_element(2**19, np.uint32),
    # numpy leaves masked elements out of min() and max(), but not out of the data.
    "out of range where it is masked out": np.ma.array(with_element(2**30), mask=with_element(1) == 1),
    "masked out altogether": np.ma.array(FINE, mask=True),
}


def take_to_the_end(recorded, client):
    """Take the client from MASKED to its end; return its last answer."""
    events = client.receive(recorded.message(SurvivorList, ALICE))
    if recorded.params.is_signed:
        events = client.receive(recorded.message(ConsistencyProof, ALICE))
    (answer,) = events
    return answer.message


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("wrong", WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_a_wrong_input_is_refused_and_the_right_one_still_taken(wrong, adversary):
    recorded = script(adversary)
    client, _ = recorded.client(ClientPhase.INPUT_REQUESTED, ALICE)
    with pytest.raises(LocalProtocolError):
        client.submit_input(wrong)
    assert client.phase is ClientPhase.INPUT_REQUESTED
    (event,) = client.submit_input(recorded.inputs[ALICE])
    assert event.message == recorded.message(MaskedInput, ALICE), "the refused call changed nothing"
    assert take_to_the_end(recorded, client) == recorded.message(UnmaskingShares, ALICE)


@pytest.mark.parametrize(("value", "accepted"), [(0, True), (2**VALUE_BITS - 1, True), (2**VALUE_BITS, False)])
def test_the_range_of_elements_is_exact(value, accepted):
    client, _ = script().client(ClientPhase.INPUT_REQUESTED, ALICE)
    if accepted:
        client.submit_input(with_element(value))
    else:
        with pytest.raises(LocalProtocolError):
            client.submit_input(with_element(value))


def test_the_message_holds_a_plain_array_for_any_array_given():
    """A subclass may carry other data; only the elements may be sent."""

    class Tagged(np.ndarray):
        def __array_finalize__(self, parent):
            self.original = parent

    client, _ = script().client(ClientPhase.INPUT_REQUESTED, ALICE)
    (event,) = client.submit_input(script().inputs[ALICE].view(Tagged))
    assert event.message == script().message(MaskedInput, ALICE)
    assert type(event.message.masked_input) is np.ndarray
    assert "input" not in secrets_in(script().secrets(ALICE), event)


def test_the_error_reveals_no_elements():
    """Inputs are secret: an error that is logged must not quote them."""
    client, _ = script().client(ClientPhase.INPUT_REQUESTED, ALICE)
    with pytest.raises(LocalProtocolError) as refusal:
        client.submit_input(with_element(987_654_321))
    assert "987" not in str(refusal.value)


def test_a_refused_input_is_not_kept():
    client, _ = script().client(ClientPhase.INPUT_REQUESTED, ALICE)
    wrong = with_element(987_654_321)
    with pytest.raises(LocalProtocolError):
        client.submit_input(wrong)
    assert secrets_in({"input": vector_encodings(wrong)}, client) == set()


@pytest.mark.parametrize(
    "halt", halts([phase for phase in ClientPhase if phase is not ClientPhase.INPUT_REQUESTED]), ids=str
)
def test_an_input_that_was_not_requested_is_refused(halt):
    client = halt.client()
    with pytest.raises(LocalProtocolError, match=halt.phase.name):
        client.submit_input(halt.script.inputs[ALICE])
    assert client.phase is halt.phase


@pytest.mark.parametrize("halt", halts([phase for phase in ClientPhase if phase is not ClientPhase.CREATED]), ids=str)
def test_a_client_starts_once(halt):
    client = halt.client()
    with pytest.raises(LocalProtocolError, match=halt.phase.name):
        client.start()
    assert client.phase is halt.phase


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
def test_a_session_of_clients_that_are_used_wrongly_all_along_completes_exactly(adversary):
    """Every wrong call comes at every step; the messages are bit for bit those of the undisturbed session."""
    recorded = script(adversary)
    for client_id in recorded.client_messages[UnmaskingShares]:
        client, _ = recorded.client(ClientPhase.CREATED, client_id)
        steps = [
            client.start,
            lambda c=client, i=client_id: c.receive(recorded.message(PeerKeys, i)),
            lambda c=client, i=client_id: c.receive(recorded.message(PeerShares, i)),
            lambda c=client, i=client_id: c.submit_input(recorded.inputs[i]),
            lambda c=client, i=client_id: c.receive(recorded.message(SurvivorList, i)),
        ]
        if adversary is MALICIOUS:
            steps.append(lambda c=client, i=client_id: c.receive(recorded.message(ConsistencyProof, i)))
        sent = []
        for step in steps:
            for wrong in WRONG_INPUTS.values():
                with pytest.raises(LocalProtocolError):
                    client.submit_input(wrong)
            if client.phase is not ClientPhase.CREATED:
                with pytest.raises(LocalProtocolError):
                    client.start()
            sent += [event.message for event in step() if hasattr(event, "message")]
        assert sent == [messages[client_id] for messages in recorded.client_messages.values() if messages]


# --- Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_id", [-1, 2**32, 1.0, "1", None, True, np.int64(1)])
def test_a_wrong_client_id_is_refused(client_id):
    with pytest.raises(LocalProtocolError, match="client_id"):
        Client(make_params(), client_id)


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({"num_clients": 5}, {}),
        (None, {}),
        (make_params(), {"context": "text"}),
        (make_params(), {"context": bytearray(3)}),
        (make_params(), {"nonce": None}),
        (make_params(), {"nonce": bytes(256)}),
    ],
)
def test_wrong_arguments_are_refused(params, options):
    with pytest.raises(LocalProtocolError):
        Client(params, 1, **options)


@pytest.mark.parametrize(
    "entropy",
    [
        lambda size: b"",
        lambda size: bytes(size - 1),
        lambda size: bytes(size + 1),
        lambda size: bytearray(size),
        lambda size: "x" * size,
        lambda size: None,
    ],
)
def test_a_source_that_does_not_give_the_bytes_asked_for_is_refused(entropy):
    with pytest.raises(LocalProtocolError, match="entropy"):
        Client(make_params(), 1, entropy=entropy).start()


@pytest.mark.parametrize("entropy", [None, b"bytes", 4])
def test_a_source_that_is_not_a_function_is_refused_at_once(entropy):
    blob = script().client(ClientPhase.CREATED, ALICE)[0].suspend()
    for build in (
        lambda: Client(make_params(), 1, entropy=entropy),
        lambda: Server(make_params(), entropy=entropy),
        lambda: Client.resume(blob, entropy=entropy),
    ):
        with pytest.raises(LocalProtocolError, match="entropy"):
            build()


def test_a_source_that_fails_halfway_leaves_no_secret_behind():
    """After the state was taken, any error leaves the client dead, not half alive."""

    def fail(size):
        raise OSError("no randomness")

    given = SeededEntropy(f"script/{ALICE}")
    client = Client(PARAMS, ALICE, entropy=lambda size: given(size) if len(given.draws) < 3 else fail(size))
    with pytest.raises(OSError, match="no randomness"):
        client.start()
    assert len(given.draws) == 3
    assert client.phase is ClientPhase.ABORTED
    assert secrets_in({"draws": given.draws}, client) == set()


# --- No copies -------------------------------------------------------------------------------------------------------


MACHINES = [
    *(pytest.param(halt.client, id=f"Client: {halt}") for halt in halts(ClientPhase)),
    *(pytest.param(halt.server, id=f"Server: {halt}") for halt in halts(ServerPhase)),
]

DUPLICATORS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle protocol {protocol}": partial(pickle.dumps, protocol=protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("duplicate", DUPLICATORS.values(), ids=DUPLICATORS)
def test_a_machine_cannot_be_duplicated(machine, duplicate):
    """Two copies of a client could answer two survivor lists, which gives away both secrets of a peer."""
    original = machine()
    phase = original.phase
    with pytest.raises(TypeError, match="copied or pickled"):
        duplicate(original)
    assert original.phase is phase


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_has_no_room_for_stray_attributes_and_a_read_only_face(machine):
    original = machine()
    with pytest.raises(AttributeError):
        original.note = 1
    for name in ("phase", "params", "session_id"):
        with pytest.raises(AttributeError):
            setattr(original, name, None)


def test_parameters_cannot_be_changed_once_they_are_checked():
    params = make_params()
    with pytest.raises(AttributeError):
        params.threshold = 1
    with pytest.raises(PlanError):
        Server(make_params(threshold=1))
