"""The record of a node's answers: even for a lying server, no session is entered twice and no round answered twice.

The client itself sees what a round is: the message's content, and the number in the app's ConfigRecords, where Flower's
strategies put it.  Numbers must increase among messages of one run, one category and one configuration (all of the
ConfigRecords except the number).  A server can call any message a new round, so each node limits the number of rounds
that it answers.

A session that measures is a separate kind of answer: each round has at most one, before its update and with the same
content.
"""

import hashlib
import os
from dataclasses import dataclass

from fl.integrations.claims import Claims
from fl.integrations.flower._flwr import ConfigRecord, RecordDict
from fl.integrations.flower.content import content_digest
from transport import ClientRecord, RepeatedSessionError

_LABEL = b"secagg/fl/flower-answer/1"
_MEASURED_LABEL = b"secagg/fl/flower-ranges/1"

_NUMBER = "server-round"
"""The entry of a ConfigRecord in which Flower's strategies number their rounds."""

_UNNUMBERED = -1


@dataclass(frozen=True, slots=True)
class RoundName:
    """The name of the round that a message asks for.

    Attributes:
        series: the series in which rounds are counted.
        number: the round's number; `_UNNUMBERED` if the message has none.
    """

    series: str
    number: int

    @classmethod
    def of(cls, message_type: str, records: RecordDict, run_id: int) -> "RoundName":
        """Return the round that a message with the app's ``records`` asks for."""
        category = message_type.split(".")[0]
        numbers, config = [_UNNUMBERED], RecordDict()
        for name, record in records.config_records.items():
            numbers += [record[_NUMBER]] if type(record.get(_NUMBER)) is int else []
            config[name] = ConfigRecord({key: value for key, value in record.items() if key != _NUMBER})
        return cls(f"{run_id} {category} {content_digest(category, config).hex()}", max(numbers))


class NodeRecord:
    """The durable record of one node.

    Args:
        folder: as for `fl.integrations.claims.Claims`.
        owner: the node's identity key, or its name if it has no key.
        training: the node's own name for the training whose rounds it answers.
        max_rounds: the most rounds that it answers in the training, over all runs.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, owner: bytes, *, training: str, max_rounds: int) -> None:
        self._claims = Claims(folder)
        self._owner = owner
        self._training = training
        self._max_rounds = max_rounds

    def claim(self, state: bytes) -> None:
        """Claim the client's state before it answers; raise ClaimedError if it was claimed before."""
        self._claims.claim(state)

    def enter(self, session_id: bytes) -> None:
        """Note that the node takes part in a session, before its first message goes out.

        Raises:
            RepeatedSessionError: the node has taken part in it before.
        """
        self._rounds("").enter(session_id)

    def check(self, round_: RoundName, run_id: int, content: bytes, *, measures: bool = False) -> None:
        """Raise RepeatedSessionError before the training if `answer` would raise it."""
        if self._claims.record.is_used(self._content_key(run_id, content, measures)):
            raise RepeatedSessionError(_ANSWERED)
        rounds = self._rounds(round_.series, measures)
        rounds.check_round(_number(rounds, round_))
        self._check_other_answer(round_, run_id, content, measures)

    def answer(
        self, session_id: bytes, round_: RoundName, run_id: int, content: bytes, *, measures: bool = False
    ) -> None:
        """Note that the round is answered, before the shares that open the sum go out.

        Args:
            session_id: the session's id.
            round_: the round that is answered.
            run_id: the id of Flower's run.
            content: the digest of the message that is answered.
            measures: True if the answer is the size of the update, not the update.

        Raises:
            RepeatedSessionError: this content was answered in this run; the number is not above the last of its series;
                the node has answered its limit of rounds; or the update does not belong to what was measured. The
                shares must not go out.
        """
        try:
            self._claims.record.use(self._content_key(run_id, content, measures))
        except RepeatedSessionError:
            raise RepeatedSessionError(_ANSWERED) from None
        rounds = self._rounds(round_.series, measures)
        rounds.answer(session_id, _number(rounds, round_))
        # Check last: of two processes that answer at once, at least one finds the other's note.
        self._check_other_answer(round_, run_id, content, measures)

    def _check_other_answer(self, round_: RoundName, run_id: int, content: bytes, measures: bool) -> None:
        """Raise RepeatedSessionError if the update was sent before its measuring, or another content was measured."""
        is_used, last = self._claims.record.is_used, self._rounds(round_.series, not measures).last_answered()
        # Rounds without a number have no order: only their contents tell them apart.
        late = last is not None and round_.number != _UNNUMBERED and round_.number <= last
        if measures:
            if late or is_used(self._content_key(run_id, content, False)):
                raise RepeatedSessionError("this node has sent its update of this round and does not measure it")
        elif late and not is_used(self._content_key(run_id, content, True)):
            raise RepeatedSessionError(
                f"in round {round_.number} this node has measured its update for another message, so it sends no "
                "update for this one"
            )

    def _content_key(self, run_id: int, content: bytes, measures: bool) -> bytes:
        label = _MEASURED_LABEL if measures else _LABEL
        return label + hashlib.sha256(self._owner).digest() + content + str(run_id).encode()

    def _rounds(self, series: str, measures: bool = False) -> ClientRecord:
        # Each kind of answer has a separate budget of ``max_rounds``.
        training = f"ranges of {self._training}" if measures else self._training
        return ClientRecord(
            self._claims.record, self._owner, training=training, run=series, max_rounds=self._max_rounds
        )


_ANSWERED = (
    "this node has answered this same message, model and configuration in this run: it answers no message "
    "twice, since the difference of two sums can be one client's update"
)


def _number(rounds: ClientRecord, round_: RoundName) -> int:
    """Return the round's number, or the next number if it has none."""
    if round_.number != _UNNUMBERED:
        return round_.number
    last = rounds.last_answered()
    return 0 if last is None else last + 1
