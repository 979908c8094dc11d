"""What the recorded sessions are made of: all of it known, so that it can be printed. For documents and tests alone."""

import hashlib
from collections.abc import Callable

from secagg import Identity

CONTEXT = b"model 1"
NONCE = b"nonce 1"

VECTORS = {3: (1, 2, 3), 258: (10, 0, 15), 1000: (7, 8, 9), 70000: (4, 5, 6)}
"""The inputs by client; a session of n clients has the first n."""

ALICE = 3
"""The client whose messages are shown, and on whom messages are tried."""

STRANGER = 4
"""No client of any session."""


def seeded(name: str) -> Callable[[int], bytes]:
    """A repeatable source of randomness: draw i is SHAKE-256 of the name and i."""
    count = 0

    def entropy(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name}/{count}".encode()).digest(size)

    return entropy


def identity_of(client_id: int) -> Identity:
    """A client's identity in malicious mode."""
    return Identity(hashlib.sha256(f"identity/{client_id}".encode()).digest())
