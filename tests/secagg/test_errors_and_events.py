"""Errors and events as values: they can be compared and sent to another process."""

import copy
import pickle

import numpy as np
import pytest

from secagg import (
    Aborted,
    AbortReason,
    ClientDropped,
    ClientPhase,
    CodecError,
    Completed,
    Dispute,
    DropReason,
    InputRequested,
    LocalProtocolError,
    PlanError,
    RemoteProtocolError,
    Round,
    Rule,
    SecAggError,
    ServerPhase,
    ShareFault,
    SharesDisputed,
    plan,
    rounds_of,
)
from secagg.messages import AdvertiseKeys, PeerKeys
from tests.secagg.machines import ALICE, MODES, PARAMS, SIGNED_PARAMS, script

ERRORS = [
    LocalProtocolError("called wrongly"),
    CodecError("no message"),
    RemoteProtocolError(Rule.TOO_FEW_PEERS),
    RemoteProtocolError(Rule.INVALID_PUBLIC_KEY, "of clients 3, 5", (3, 5)),
    PlanError(("one reason",)),
    PlanError(("one reason", "and another")),
]

EVENTS = {
    "InputRequested": lambda: InputRequested((3, 5)),
    "ClientDropped": lambda: ClientDropped(3, DropReason.DEADLINE, Round.SHARE_KEYS, "late"),
    "Aborted": lambda: Aborted(AbortReason.TOO_FEW_SHARES, Round.UNMASKING, 3, 2, (1,), (2,), (5,)),
    "SharesDisputed": lambda: SharesDisputed((Dispute(1, 2, ShareFault.WRONG),), (2,)),
    "Completed": lambda: Completed(np.arange(3, dtype=np.uint16), (0, 2), (7,)),
}


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [copy.copy, through_pickle], ids=["copy", "pickle"])
def test_errors_come_whole_out_of_another_process(error, duplicate):
    """Executors pickle the errors of their workers: an error that cannot be rebuilt breaks the whole pool."""
    again = duplicate(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_is_one_of_the_librarys(error):
    assert isinstance(error, SecAggError)
    with pytest.raises(SecAggError):
        raise error


def test_errors_say_who_was_at_fault():
    error = ERRORS[3]
    assert isinstance(error, RemoteProtocolError)
    assert error.rule is Rule.INVALID_PUBLIC_KEY
    assert error.culprits == (3, 5)
    assert "clients 3, 5" in str(error)
    with pytest.raises(PlanError) as refusal:
        plan(num_clients=1, vector_length=0, value_bits=1)
    assert len(refusal.value.reasons) > 1
    assert all(reason in str(refusal.value) for reason in refusal.value.reasons)


@pytest.mark.parametrize("build", EVENTS.values(), ids=EVENTS)
def test_events_are_equal_by_value_and_survive_pickling(build):
    assert build() == build()
    assert through_pickle(build()) == build()
    assert build() != "another type"


def test_a_sum_is_another_if_other_clients_gave_wrong_shares():
    total = np.arange(3, dtype=np.uint16)
    assert Completed(total, (0, 2), (7,)) != Completed(total, (0, 2))
    assert Completed(total, (0, 2), (7,)) != Completed(total + np.uint16(1), (0, 2), (7,))
    assert Completed(total, (0, 2)) != Completed(total, (0,))


def test_disputes_are_sorted_by_owner_and_holder():
    disputes = [Dispute(2, 1, ShareFault.WRONG), Dispute(1, 3, ShareFault.MISSING), Dispute(1, 2, ShareFault.WRONG)]
    assert sorted(disputes) == [disputes[2], disputes[1], disputes[0]]


def test_the_consistency_check_belongs_to_malicious_sessions():
    assert rounds_of(SIGNED_PARAMS) == tuple(Round)
    assert rounds_of(PARAMS) == tuple(round_ for round_ in Round if round_ is not Round.CONSISTENCY_CHECK)


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("not_a_message", [None, b"undecoded bytes", "text", PeerKeys], ids=repr)
def test_undecoded_bytes_are_the_callers_mistake_and_kill_no_client(not_a_message, adversary):
    """A host can easily pass bytes that were not decoded; the session must survive that."""
    client, _ = script(adversary).client(ClientPhase.ADVERTISED, ALICE)
    with pytest.raises(LocalProtocolError):
        client.receive(not_a_message)
    assert client.phase is ClientPhase.ADVERTISED


@pytest.mark.parametrize("adversary", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("not_a_message", [None, b"undecoded bytes", "text", AdvertiseKeys], ids=repr)
def test_undecoded_bytes_are_the_callers_mistake_and_drop_no_client(not_a_message, adversary):
    server = script(adversary).server_in(ServerPhase.ADVERTISE_KEYS)
    with pytest.raises(LocalProtocolError):
        server.receive(ALICE, not_a_message)
    assert ALICE in server.pending
