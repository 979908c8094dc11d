"""The tasks that carry the protocol, and what travels in them."""

from fl.integrations.nvflare._nvflare import ReturnCode, Shareable, make_reply
from secagg import Round
from transport.errors import MAX_ERROR_TEXT, printable

TASK_PREFIX = "secagg_"

TASKS = {
    Round.ADVERTISE_KEYS: TASK_PREFIX + "advertise_keys",
    Round.SHARE_KEYS: TASK_PREFIX + "share_keys",
    # The one that brings the model, and in which sites train.
    Round.MASKED_INPUT_COLLECTION: TASK_PREFIX + "masked_input",
    Round.CONSISTENCY_CHECK: TASK_PREFIX + "consistency_check",
    Round.UNMASKING: TASK_PREFIX + "unmasking",
}
"""The name of each round's task."""

_ANNOUNCEMENT, _MESSAGE, _REASON = "secagg_announcement", "secagg_message", "secagg_reason"


def announcing(announcement: bytes) -> Shareable:
    """The first task's data."""
    shareable = Shareable()
    shareable[_ANNOUNCEMENT] = announcement
    return shareable


def announced(shareable: Shareable) -> object:
    """The announcement in the first task's data, unchecked."""
    return shareable.get(_ANNOUNCEMENT)


def put_message(shareable: Shareable, message: bytes) -> Shareable:
    """Add a message of the protocol to a task's data or result; returns it."""
    shareable[_MESSAGE] = message
    return shareable


def take_message(shareable: Shareable) -> bytes | None:
    """Take the protocol's message out of a task's data or result; None if there is none."""
    message = shareable.pop(_MESSAGE, None)
    return message if isinstance(message, bytes) else None


def refusal(reason: str = "") -> Shareable:
    """A result that says that this site is out of the round; and why, where the server may know: see `PublicError`."""
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    if reason:
        reply[_REASON] = reason
    return reply


def refusal_reason(shareable: Shareable) -> str:
    """Why a site is out of the round, in a line, as it says; empty if it does not."""
    reason = shareable.get(_REASON)
    return printable(reason, MAX_ERROR_TEXT) if isinstance(reason, str) else ""
