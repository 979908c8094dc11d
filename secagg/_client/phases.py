"""Phases of the client."""

from enum import Enum, unique


@unique
class ClientPhase(Enum):
    """Phases of a client: the message or call that it waits for."""

    CREATED = "start() has not been called"
    ADVERTISED = "its keys are out; waits for PeerKeys"
    SHARED_KEYS = "its encrypted shares are out; waits for PeerShares"
    INPUT_REQUESTED = "the pairwise keys are set; waits for submit_input()"
    MASKED = "its masked input is out; waits for SurvivorList"
    SURVIVORS_SIGNED = "it signed the survivor list; waits for the others' signatures"
    FINISHED = "it answered the survivor list; its part is done"
    ABORTED = "a rule was broken or the host gave up; nothing is left"
    SUSPENDED = "moved into the bytes that suspend() returned; nothing is left"


LIVE = frozenset(ClientPhase) - {ClientPhase.ABORTED, ClientPhase.SUSPENDED}
"""Phases in which the client has not ended."""
