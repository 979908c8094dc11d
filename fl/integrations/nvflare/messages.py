"""The tasks that carry the protocol, and their data."""

from fl.integrations.nvflare._nvflare import ReturnCode, Shareable, make_reply
from secagg import Round
from transport.errors import MAX_ERROR_TEXT, printable

TASK_PREFIX = "secagg_"

TASKS = {
    Round.ADVERTISE_KEYS: TASK_PREFIX + "advertise_keys",
    Round.SHARE_KEYS: TASK_PREFIX + "share_keys",
    # The task that brings the model, and in which sites train.
    Round.MASKED_INPUT_COLLECTION: TASK_PREFIX + "masked_input",
    Round.CONSISTENCY_CHECK: TASK_PREFIX + "consistency_check",
    Round.UNMASKING: TASK_PREFIX + "unmasking",
}
"""The name of each round's task."""

_ANNOUNCEMENT, _MESSAGE, _REASON = "secagg_announcement", "secagg_message", "secagg_reason"


def announcing(announcement: bytes) -> Shareable:
    """Return the first task's data."""
    shareable = Shareable()
    shareable[_ANNOUNCEMENT] = announcement
    return shareable


def announced(shareable: Shareable) -> object:
    """Return the announcement in the first task's data, unchecked."""
    return shareable.get(_ANNOUNCEMENT)


def put_message(shareable: Shareable, message: bytes) -> Shareable:
    """Add a message of the protocol to a task's data or result, and return the latter."""
    shareable[_MESSAGE] = message
    return shareable


def take_message(shareable: Shareable) -> bytes | None:
    """Remove and return the protocol's message in a task's data or result; None if it has none."""
    message = shareable.pop(_MESSAGE, None)
    return message if isinstance(message, bytes) else None


def refusal(reason: str = "") -> Shareable:
    """Return a result that says that this site left the round, with the reason if it is a `PublicError`."""
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    if reason:
        reply[_REASON] = reason
    return reply


def refusal_reason(shareable: Shareable) -> str:
    """Return a site's reason for leaving the round, in one line; empty if it gives none."""
    reason = shareable.get(_REASON)
    return printable(reason, MAX_ERROR_TEXT) if isinstance(reason, str) else ""
