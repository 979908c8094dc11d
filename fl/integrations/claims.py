"""Claims of client states: each state is used once, even if several processes hold it at the same time.

The framework stores a client between messages.  A lying server can send two messages at once, and a framework that
handles each message in a separate process gives both processes the same stored client.  That client would answer both,
which the protocol forbids.  So, before a stored client answers, its state is claimed in a record that all processes
share; only one process gets the claim.
"""

import os

from fl.aggregation.participation import open_participation
from fl.errors import FLError
from transport import JournalError, RepeatedSessionError

_LABEL = b"secagg/fl/claim/1"


class ClaimedError(FLError):
    """A client state that was used before: the client is asked to answer twice."""


class Claims:
    """Claims of client states, in the record of the sessions of this user's clients.

    Args:
        folder: as for `fl.aggregation.participation.open_participation`.

    Attributes:
        record: the record that holds the claims.

    Raises:
        ConfigError: as for `open_participation`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.record = open_participation(folder)

    def claim(self, state: bytes) -> None:
        """Claim a state, and keep only its hash; raise ClaimedError if it was claimed before."""
        try:
            self.record.use(_LABEL + state)
        except RepeatedSessionError:
            raise ClaimedError("this client's state was used before: it does not answer twice") from None
        except JournalError as error:
            raise ClaimedError(f"this client's state could not be claimed: {error}") from None
