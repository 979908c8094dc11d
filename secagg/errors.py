"""The library's errors: who was at fault decides the class.

``LocalProtocolError``: you called it wrongly.  ``RemoteProtocolError``: the other side broke the protocol.
``CodecError``: bytes that are no message.  ``PlanError``: numbers that cannot work, found before a round starts.
``PolicyError``: numbers that work, but not for this client.
Anything else that escapes from `secagg` is a bug.
"""

from enum import Enum, unique


class SecAggError(Exception):
    """Base of every error that this library raises on purpose."""


class LocalProtocolError(SecAggError):
    """The caller used a machine wrongly (phase, shape, dtype, range, threads). Nothing was sent; the machine goes on.

    Two of these end a client: its source of randomness did not give what it was asked for, or another thread called
    `abort` meanwhile.
    """


class CodecError(SecAggError):
    """Bytes that are not exactly one well-formed message of this protocol version."""


@unique
class Rule(Enum):
    """The rule that a message from the server broke. The client that saw it is aborted and released nothing."""

    UNEXPECTED_MESSAGE = "a message out of turn"
    REPEATED_REQUEST = "a second request for what was answered already"
    SURVIVORS_CHANGED = "another list of survivors than the one that was answered"
    WRONG_SESSION = "a message of another session (other parameters, nonce or context)"
    TOO_FEW_PEERS = "fewer clients than the threshold"
    TOO_MANY_PEERS = "more clients than the parameters allow"
    SELF_MISSING = "a list that leaves this client out"
    KEYS_OF_SELF_CHANGED = "other keys listed for this client than it advertised"
    IDS_NOT_ASCENDING = "a list of clients that does not ascend"
    KEYS_NOT_DISTINCT = "one public key listed twice"
    INVALID_PUBLIC_KEY = "a public key that is no usable X25519 point"
    WRONG_SIZE = "a list whose size does not fit the clients that were announced"
    TOO_FEW_VALID_SHARES = "fewer shares that authenticate than the threshold"
    SURVIVORS_NOT_SUBSET = "a survivor that had not shared its keys"
    CONSISTENT_NOT_SUBSET = "a signature of the survivors by a client that is none of them"
    IDENTITY_NOT_TRUSTED = "an identity key that the directory does not know as that client's"
    IDENTITY_NOT_DISTINCT = "one identity key for two clients"
    INVALID_SIGNATURE = "keys whose signature is not their client's"
    TOO_FEW_SIGNATURES = "fewer signatures of the same survivors than the threshold"
    VIEWS_CONTRADICT = "a peer's view that contradicts this client's"


class RemoteProtocolError(SecAggError):
    """The server broke the protocol.

    Attributes:
        rule: which rule.
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
    """The numbers do not add up.

    Attributes:
        reasons: every constraint that fails, each a sentence that says by how much.
    """

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__(reasons)
        self.reasons = reasons

    def __str__(self) -> str:
        return "; ".join(self.reasons)


class PolicyError(SecAggError):
    """A session that this client declines; its text gives every reason."""
