"""A second implementation of the protocol, from the standard library and `cryptography` alone, that checks the vectors.

It shares no code with the library: an implementer in another language would write the same.  Everything is plain
integers and bytes, and slow.  `verify` takes a file's parsed JSON and raises `Mismatch` if its own result differs.
"""

from typing import Any

from .errors import Malformed, Mismatch, Refused, expect
from .messages import verify_bad_bytes, verify_messages
from .primitives import verify_primitives
from .session import verify_refusal, verify_session

__all__ = ["Mismatch", "verify", "verify_refusal"]


def verify(content: dict[str, Any]) -> int:
    """Recompute a file; return how many cases (of a session: steps) were checked."""
    try:
        return _verify(content)
    except (Malformed, ArithmeticError, AssertionError, LookupError, Refused, TypeError, ValueError) as error:
        raise Mismatch(f"the vector cannot be followed: {error!r}") from error


def _verify(content: dict[str, Any]) -> int:
    expect("version", content["version"], "1")
    expect("protocol version", content["protocol_version"], 1)
    if "groups" in content:
        return verify_primitives(content["groups"])
    if "messages" in content:
        return verify_messages(content)
    if "steps" in content:
        return verify_session(content)
    return verify_bad_bytes(content)
