"""Errors of others that pass through a client: the client is dead, and the errors keep none of its secrets."""

import traceback
from collections.abc import Callable

import pytest

from secagg import ClientPhase, Identity, PinnedKeys, sharing
from secagg._client import states, suspension
from secagg.messages import PeerKeys, PeerShares, SurvivorList
from tests.secagg.machines import ALICE, MALICIOUS, Halt, script
from tests.secagg.object_graph import frames_of, secrets_in
from tests.secagg.test_client_phases import assert_dead

ERRORS = [KeyboardInterrupt, MemoryError, SystemExit, ZeroDivisionError]


def receiving(kind: type) -> Callable:
    return lambda client: client.receive(script(MALICIOUS).message(kind, ALICE))


PLACES = {
    "entropy": (states, "draw", ClientPhase.CREATED, lambda client: client.start()),
    "directory": (PinnedKeys, "is_trusted", ClientPhase.ADVERTISED, receiving(PeerKeys)),
    "shares": (sharing, "open_shares", ClientPhase.SHARED_KEYS, receiving(PeerShares)),
    "masks": (
        states,
        "accumulate",
        ClientPhase.INPUT_REQUESTED,
        lambda client: client.submit_input(script(MALICIOUS).inputs[ALICE]),
    ),
    "identity": (Identity, "sign", ClientPhase.MASKED, receiving(SurvivorList)),
    "suspended": (suspension, "dump", ClientPhase.MASKED, lambda client: client.suspend()),
}
"""An object and its attribute that raises; then a phase, and the call that meets the error in this phase."""

each_place = pytest.mark.parametrize("place", PLACES)


def caught(place: str, kind: type[BaseException], monkeypatch) -> tuple:
    """Return the client and the error from it: raised while another was handled, and with a cause."""
    owner, name, phase, call = PLACES[place]
    client = Halt(MALICIOUS, phase).client()

    def fail(*args: object) -> None:
        try:
            {}["handled"]
        except KeyError:
            raise kind("in the host's own code") from ValueError("its cause")

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(kind, match="in the host's own code") as found:
        call(client)
    monkeypatch.undo()
    return client, found.value


@each_place
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_of_the_hosts_ends_the_client_and_keeps_no_secret_alive(place, kind, monkeypatch):
    client, error = caught(place, kind, monkeypatch)
    assert type(error) is kind
    assert_dead(script(MALICIOUS), client)
    secrets = script(MALICIOUS).secrets(ALICE)
    if place == "masks":
        del secrets["input"]  # The caller's own reference: it stands in the frame of the call.
    frames = frames_of(error, "secagg")
    assert len(frames) > 2
    assert secrets_in(secrets, *frames, *frames_of(error.__context__, "tests")) == set()


@each_place
def test_it_still_tells_where_it_was_raised(place, monkeypatch):
    """The frames are cleared, not cut off: a host has to find the fault in its directory."""
    _, error = caught(place, ZeroDivisionError, monkeypatch)
    assert "raise kind" in traceback.extract_tb(error.__traceback__)[-1].line
    assert isinstance(error.__context__, KeyError)
    assert isinstance(error.__cause__, ValueError)


def test_an_error_that_the_host_is_handling_keeps_its_frames(monkeypatch):
    def fail(kept: str) -> None:
        raise ValueError(kept)

    def handle() -> None:
        try:
            fail("the host's own")
        except ValueError:
            caught("directory", MemoryError, monkeypatch)
            raise

    with pytest.raises(ValueError, match="the host's own") as handled:
        handle()
    frames = [frame for frame, _ in traceback.walk_tb(handled.value.__traceback__)]
    assert frames[-1].f_locals == {"kept": "the host's own"}
