"""The sessions that documents show: all their inputs are known, so that they can be printed."""

from typing import Any

import numpy as np

from secagg import Adversary, MaskSum
from tests.support.sessions import Cohort, SeededEntropy, make_params

CONTEXT = b"model 1"
NONCE = b"nonce 1"

VECTORS = {3: (1, 2, 3), 258: (10, 0, 15), 1000: (7, 8, 9), 70000: (4, 5, 6)}
"""The inputs by client; a session of n clients has the first n."""

ALICE = 3
"""The client whose messages are shown, and that gets the tried messages."""

STRANGER = 4
"""A client that is in no session."""


class Recording(Cohort):
    """A session in which no client vanishes; on the complete graph without ``degree``."""

    def __init__(self, adversary: Adversary, num_clients: int, degree: int | None = None) -> None:
        params = make_params(num_clients, 2, vector_length=3, value_bits=4, degree=degree, adversary=adversary)
        inputs = {client_id: np.array(vector) for client_id, vector in list(VECTORS.items())[:num_clients]}
        super().__init__(params, inputs, context=CONTEXT, nonce=NONCE, entropy_seed="client")
        self.run()

    def source(self, name: int | str) -> SeededEntropy:
        """Return a machine's randomness from its beginning: draw i is SHAKE-256 of the machine's name and i."""
        return SeededEntropy(f"client {name}" if isinstance(name, int) else name)

    def message(self, kind: type, client_id: int = ALICE) -> Any:
        """Return the message of this type that the client sent or got."""
        return (self.sent | self.told)[kind][client_id]

    def done(self) -> MaskSum:
        """Return the result of the session's job."""
        assert self.job is not None
        return self.job.run()


def of_another_session(message: Any) -> Any:
    """Return the same message under another session's id."""
    values = {name: getattr(message, name) for name in message.__slots__}
    return type(message)(**{**values, "session_id": bytes(32)})
