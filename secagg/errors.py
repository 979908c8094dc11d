"""Errors of the library; the class says who was at fault.

``LocalProtocolError``: the caller used the library wrongly.  ``RemoteProtocolError``: the other side broke the
protocol. ``CodecError``: the bytes are not a message.  ``PlanError``: the numbers cannot work, found before a round
starts. ``PolicyError``: the numbers work, but this client does not accept them. Anything else that escapes from
`secagg` is a bug.
"""

from enum import Enum, unique


class SecAggError(Exception):
    """Base class of all errors that this library raises on purpose."""


class LocalProtocolError(SecAggError):
    """Raised when the caller uses a machine wrongly: phase, shape, dtype, range, threads.

    Nothing was sent, and the machine goes on. There are two exceptions that end a client: its source of randomness
    returned something else than the bytes it was asked for, or another thread called `abort` during the call.
    """


class CodecError(SecAggError):
    """Raised for bytes that are not exactly one well-formed message of this protocol version."""


@unique
class Rule(Enum):
    """Rules that a message from the server can break. The client that sees it aborts and releases nothing."""

    UNEXPECTED_MESSAGE = "a message out of turn"
    REPEATED_REQUEST = "a second request for an answer that was already given"
    SURVIVORS_CHANGED = "a list of survivors that differs from the one already answered"
    WRONG_SESSION = "a message of another session (other parameters, nonce or context)"
    TOO_FEW_PEERS = "fewer clients than the threshold"
    TOO_MANY_PEERS = "more clients than the parameters allow"
    SELF_MISSING = "a list that leaves this client out"
    KEYS_OF_SELF_CHANGED = "keys for this client that differ from those it advertised"
    IDS_NOT_ASCENDING = "a list of clients that is not in ascending order"
    KEYS_NOT_DISTINCT = "one public key listed twice"
    INVALID_PUBLIC_KEY = "a public key that is not a valid X25519 point"
    WRONG_SIZE = "a list whose size does not match the announced clients"
    TOO_FEW_VALID_SHARES = "fewer authentic shares than the threshold"
    SURVIVORS_NOT_SUBSET = "a survivor that did not share its keys"
    CONSISTENT_NOT_SUBSET = "a signature from a client that is not a survivor"
    IDENTITY_NOT_TRUSTED = "an identity key that the directory does not list for that client"
    IDENTITY_NOT_DISTINCT = "one identity key for two clients"
    INVALID_SIGNATURE = "keys whose signature is not valid for their client"
    TOO_FEW_SIGNATURES = "fewer signatures of the same survivors than the threshold"
    VIEWS_CONTRADICT = "a peer's view that contradicts this client's"


class RemoteProtocolError(SecAggError):
    """Raised when the server breaks the protocol.

    Attributes:
        rule: the rule that was broken.
        culprits: ids of the peers whose data was bad, where that is known.
    """

    def __init__(self, rule: Rule, detail: str = "", culprits: tuple[int, ...] = ()) -> None:
        # All arguments go to the base class, so that the error can be pickled.
        super().__init__(rule, detail, culprits)
        self.rule = rule
        self.detail = detail
        self.culprits = culprits

    def __str__(self) -> str:
        return f"the server sent {self.rule.value}{': ' + self.detail if self.detail else ''}"


class PlanError(SecAggError):
    """Raised when the numbers of a session do not add up.

    Attributes:
        reasons: one sentence for each constraint that fails, with the margin.
    """

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__(reasons)
        self.reasons = reasons

    def __str__(self) -> str:
        return "; ".join(self.reasons)


class PolicyError(SecAggError):
    """Raised when a client declines a session; the text gives all reasons."""
