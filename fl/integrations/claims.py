"""That one state of a client is used once, on machines where several processes may hold it at the same time.

A client that is stored between messages lives in the framework's hands.  A server that may lie can send two messages
at once, and a framework that handles each in a process of its own gives both the same stored client: it would answer
both, which the client itself can never do.  Before a stored client answers, its state is claimed in a record that all
processes share, and that lets one of them have it.
"""

import os

from fl.aggregation.participation import open_participation
from fl.errors import FLError
from transport import JournalError, RepeatedSessionError

_LABEL = b"secagg/fl/claim/1"


class ClaimedError(FLError):
    """A state that was used before: somebody asks a client to answer twice."""


class Claims:
    """Claims of states, in the record of what this user's clients take part in.

    Args:
        folder: as for `fl.aggregation.participation.open_participation`.

    Attributes:
        record: the record that they are part of.

    Raises:
        ConfigError: as there.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.record = open_participation(folder)

    def claim(self, state: bytes) -> None:
        """Claim a state, of which only a hash is kept; ClaimedError if it was claimed before."""
        try:
            self.record.use(_LABEL + state)
        except RepeatedSessionError:
            raise ClaimedError("this client's state was used before: it would answer twice, and does not") from None
        except JournalError as error:
            raise ClaimedError(f"no claim could be made: {error}") from None
