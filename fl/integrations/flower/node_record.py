"""What this node has answered: against a server that lies, no session is entered twice, and no round answered twice.

A round is what the client sees for itself: the message's content, and the number that the app's ConfigRecords give it,
as Flower's strategies do.  Numbers count up among messages of one run, one category and one configuration, which is all
that ConfigRecords say but the number.  A server can call anything another round; so each node answers only so many.
"""

import hashlib
import os
from dataclasses import dataclass

from fl.integrations.claims import Claims
from fl.integrations.flower._flwr import ConfigRecord, RecordDict
from fl.integrations.flower.content import content_digest
from transport import ClientRecord, RepeatedSessionError

_LABEL = b"secagg/fl/flower-answer/1"

_NUMBER = "server-round"
"""The entry of a ConfigRecord in which Flower's strategies number their rounds."""

_UNNUMBERED = -1


@dataclass(frozen=True, slots=True)
class RoundName:
    """Which round a message asks for.

    Attributes:
        series: what the rounds are counted in.
        number: which of them; `_UNNUMBERED` if the message does not say.
    """

    series: str
    number: int

    @classmethod
    def of(cls, message_type: str, records: RecordDict, run_id: int) -> "RoundName":
        """The round that a message asks for, whose records of the app's own are ``records``."""
        category = message_type.split(".")[0]
        numbers, config = [_UNNUMBERED], RecordDict()
        for name, record in records.config_records.items():
            numbers += [record[_NUMBER]] if type(record.get(_NUMBER)) is int else []
            config[name] = ConfigRecord({key: value for key, value in record.items() if key != _NUMBER})
        return cls(f"{run_id} {category} {content_digest(category, config).hex()}", max(numbers))


class NodeRecord:
    """The record of one node, which lasts beyond its processes.

    Args:
        folder: as for `fl.integrations.claims.Claims`.
        owner: the node's identity key, or what names it where there is none.
        training: the node's own name for what it answers rounds of.
        max_rounds: the most rounds that it answers in the training, whatever runs they are of.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, owner: bytes, *, training: str, max_rounds: int) -> None:
        self._claims = Claims(folder)
        self._owner = owner
        self._training = training
        self._max_rounds = max_rounds

    def claim(self, state: bytes) -> None:
        """Claim the client's state before it answers; ClaimedError if it has answered before."""
        self._claims.claim(state)

    def enter(self, session_id: bytes) -> None:
        """Note that the node takes part in a session, before its first message goes out.

        Raises:
            RepeatedSessionError: it has taken part in it before.
        """
        self._rounds("").enter(session_id)

    def check(self, round_: RoundName, run_id: int, content: bytes) -> None:
        """Raise RepeatedSessionError, before anybody trains, if `answer` would."""
        if self._claims.record.is_used(self._content_key(run_id, content)):
            raise RepeatedSessionError(_ANSWERED)
        rounds = self._rounds(round_.series)
        rounds.check_round(_number(rounds, round_))

    def answer(self, session_id: bytes, round_: RoundName, run_id: int, content: bytes) -> None:
        """Note that the round is answered, before the shares that open the sum go out.

        Raises:
            RepeatedSessionError: its content was answered in this run, or it is not above the last of its series, or
                the node has answered as many as it may. The shares must not go out.
        """
        try:
            self._claims.record.use(self._content_key(run_id, content))
        except RepeatedSessionError:
            raise RepeatedSessionError(_ANSWERED) from None
        rounds = self._rounds(round_.series)
        rounds.answer(session_id, _number(rounds, round_))

    def _content_key(self, run_id: int, content: bytes) -> bytes:
        return _LABEL + hashlib.sha256(self._owner).digest() + content + str(run_id).encode()

    def _rounds(self, series: str) -> ClientRecord:
        return ClientRecord(
            self._claims.record, self._owner, training=self._training, run=series, max_rounds=self._max_rounds
        )


_ANSWERED = (
    "this node has answered this very message, with the same model and configuration, in this run: it answers nothing "
    "twice, since the difference of two sums can be one client's update"
)


def _number(rounds: ClientRecord, round_: RoundName) -> int:
    """The round's number; the next one if it has none."""
    if round_.number != _UNNUMBERED:
        return round_.number
    last = rounds.last_answered()
    return 0 if last is None else last + 1
