"""Two threads that call one client: one of them gets an answer, and abort() always wins."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, cast

import pytest

from secagg import Client, ClientPhase, Identity, LocalProtocolError, RemoteProtocolError, Rule
from secagg._client import suspension
from secagg.messages import ConsistencyCheck, ConsistencyProof, PeerKeys, SurvivorList, UnmaskingShares
from tests.secagg.machines import ALICE, CONTEXT, HONEST, IDS, MALICIOUS, Halt, script
from tests.secagg.object_graph import frames_of, secrets_in
from tests.secagg.test_client_phases import assert_dead
from tests.support.sessions import SeededEntropy, directory_of, identity_of

PATIENCE = 30
"""Seconds after which a test that hangs fails."""


class Gate:
    """A gate that blocks each thread that passes, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)


class Hesitant(Identity):
    """An identity that waits at the gate before it signs a view."""

    def __init__(self, secret_key: bytes, gate: Gate) -> None:
        super().__init__(secret_key)
        self.gate = gate

    def sign(self, statement: bytes) -> bytes:
        if b"view" in statement:
            self.gate()
        return super().sign(statement)


class Doubtful:
    """A directory that waits at the gate before it answers."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def is_trusted(self, client_id: int, identity_key: bytes) -> bool:
        self.gate()
        return True


def resumed(phase: ClientPhase, **host) -> Client:
    """Return Alice in the malicious session, in this phase and with another host."""
    return Client.resume(Halt(MALICIOUS, phase).client().suspend(), **{**script(MALICIOUS).host_of(ALICE), **host})


@contextmanager
def held_up(call: Callable[[], object], gate: Gate) -> Iterator[list[object]]:
    """Run the call in its own thread while it waits at the gate; yield a list that gets its result or error."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001 - handed over
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert gate.reached.wait(PATIENCE)
        yield outcome
    finally:
        gate.opened.set()
        thread.join(PATIENCE)
    assert len(outcome) == 1


def message(kind: type):
    return script(MALICIOUS).message(kind, ALICE)


def another_list() -> SurvivorList:
    return replace(message(SurvivorList), survivors=(True,) * 5)


# --- A call while another one is under way ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "second",
    [
        lambda client: client.receive(message(SurvivorList)),
        lambda client: client.receive(another_list()),
        lambda client: client.receive(message(ConsistencyProof)),
        lambda client: client.suspend(),
    ],
    ids=["the same list", "another list", "a proof", "suspend"],
)
def test_a_second_call_finds_the_client_in_use_and_the_first_completes(second):
    gate = Gate()
    client = resumed(ClientPhase.MASKED, identity=Hesitant(identity_of(ALICE).to_bytes(), gate))
    before = client.transcript
    with held_up(lambda: client.receive(message(SurvivorList)), gate) as outcome:
        with pytest.raises(LocalProtocolError, match="in use by another thread"):
            second(client)
        assert client.phase is ClientPhase.MASKED
        assert (client.client_id, client.session_id) == (ALICE, script(MALICIOUS).session_id)
        assert client.params is not None
        assert len(client.transcript) == len(before) + 1, "a refused call leaves no entry"
    ((signed,),) = cast(Any, outcome)
    assert signed.message == message(ConsistencyCheck)
    assert client.phase is ClientPhase.SURVIVORS_SIGNED
    (answer,) = client.receive(message(ConsistencyProof))
    assert answer.message == message(UnmaskingShares)
    assert client.phase is ClientPhase.FINISHED


def test_a_call_that_is_impossible_in_the_phase_is_refused_for_that():
    gate = Gate()
    client = resumed(ClientPhase.MASKED, identity=Hesitant(identity_of(ALICE).to_bytes(), gate))
    with held_up(lambda: client.receive(message(SurvivorList)), gate):
        for call in (client.start, lambda: client.submit_input(script(MALICIOUS).inputs[ALICE])):
            with pytest.raises(LocalProtocolError, match="MASKED"):
                call()
    assert client.phase is ClientPhase.SURVIVORS_SIGNED


def test_a_directory_that_calls_the_client_which_asks_it_finds_it_in_use():
    """The call does not come from another thread, but it would still have got the state twice."""

    class Meddling:
        def is_trusted(self, client_id: int, identity_key: bytes) -> bool:
            with pytest.raises(LocalProtocolError, match="a call that this one was made in"):
                client.receive(message(PeerKeys))
            return True

    client = resumed(ClientPhase.ADVERTISED, directory=Meddling())
    client.receive(message(PeerKeys))
    assert client.phase is ClientPhase.SHARED_KEYS


# --- abort() meanwhile -----------------------------------------------------------------------------------------------


def created(gate: Gate) -> Client:
    entropy = SeededEntropy(f"script/{ALICE}")

    def slow(size: int) -> bytes:
        drawn = entropy(size)
        gate()
        return drawn

    host = {"identity": identity_of(ALICE), "directory": directory_of(IDS)}
    return Client(script(MALICIOUS).params, ALICE, context=CONTEXT, nonce=b"nonce", entropy=slow, **host)


UNDER_WAY = {
    "start": (created, lambda client: client.start()),
    "keys": (
        lambda gate: resumed(ClientPhase.ADVERTISED, directory=Doubtful(gate)),
        lambda client: client.receive(message(PeerKeys)),
    ),
    "survivors": (
        lambda gate: resumed(ClientPhase.MASKED, identity=Hesitant(identity_of(ALICE).to_bytes(), gate)),
        lambda client: client.receive(message(SurvivorList)),
    ),
    "suspend": (lambda gate: resumed(ClientPhase.MASKED), lambda client: client.suspend()),
}


@pytest.mark.parametrize("name", UNDER_WAY)
def test_abort_wins_over_a_call_that_is_under_way(name, monkeypatch):
    gate = Gate()
    make, call = UNDER_WAY[name]
    client = make(gate)
    if name == "suspend":
        dump = suspension.dump
        monkeypatch.setattr(suspension, "dump", lambda *state: (gate(), dump(*state))[1])
    with held_up(lambda: call(client), gate) as outcome:
        client.abort()
        assert client.phase is ClientPhase.ABORTED
        with pytest.raises(LocalProtocolError, match="ABORTED"):
            client.receive(another_list())
    (error,) = outcome
    assert isinstance(error, LocalProtocolError)
    assert "aborted meanwhile" in str(error)
    assert_dead(script(MALICIOUS), client)
    assert secrets_in(script(MALICIOUS).secrets(ALICE), *frames_of(error, "secagg")) == set()
    assert {entry.what.name for entry in client.transcript[-1:]} <= {"RECEIVED", "SENT"}


def test_a_message_that_is_refused_after_abort_says_why_all_the_same():
    gate = Gate()

    class Unfriendly(Doubtful):
        def is_trusted(self, client_id: int, identity_key: bytes) -> bool:
            return super().is_trusted(client_id, identity_key) and client_id != IDS[0]

    client = resumed(ClientPhase.ADVERTISED, directory=Unfriendly(gate))
    with held_up(lambda: client.receive(message(PeerKeys)), gate) as outcome:
        client.abort()
    (error,) = outcome
    assert isinstance(error, RemoteProtocolError)
    assert error.rule is Rule.IDENTITY_NOT_TRUSTED
    assert_dead(script(MALICIOUS), client)


# --- Without a gate --------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty_switches():
    """Make threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty_switches")
def test_only_one_of_two_concurrent_survivor_lists_is_answered():
    """Two answers would give away both secrets of the client about which the lists differ."""
    blob = Halt(HONEST, ClientPhase.MASKED).client().suspend()
    first = script().message(SurvivorList, ALICE)
    lists = (first, replace(first, survivors=(True,) * 5))
    for _ in range(1000):
        client, barrier = Client.resume(blob), threading.Barrier(2)
        answers: list[object] = []

        def answer(message, client=client, barrier=barrier, answers=answers) -> None:
            barrier.wait(PATIENCE)
            with suppress(LocalProtocolError, RemoteProtocolError):
                answers.extend(client.receive(message))

        threads = [threading.Thread(target=answer, args=(message,)) for message in lists]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(answers) == 1
        assert client.phase in (ClientPhase.FINISHED, ClientPhase.ABORTED)
