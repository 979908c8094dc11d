"""What this node has answered: against a server that lies, no session is entered twice, and no round answered twice.

A round is what the client sees for itself: the message's content, and the number that the app's ConfigRecords give it,
as Flower's strategies do.  Numbers count up among messages of one run, one category and one configuration, which is all
that ConfigRecords say but the number.  A server can call anything another round; so each node answers only so many.

A session that measures is an answer of its own kind: each round has at most one of them, before its update and of the
same content.
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

    def check(self, round_: RoundName, run_id: int, content: bytes, *, measures: bool = False) -> None:
        """Raise RepeatedSessionError, before anybody trains, if `answer` would."""
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
            session_id: of the session.
            round_: see there.
            run_id: of Flower's run.
            content: the digest of what is answered.
            measures: whether the answer is how large the update is, and not the update.

        Raises:
            RepeatedSessionError: its content was answered in this run, or it is not above the last of its series, or
                the node has answered as many as it may; or its measuring and its update do not go together. The shares
                must not go out.
        """
        try:
            self._claims.record.use(self._content_key(run_id, content, measures))
        except RepeatedSessionError:
            raise RepeatedSessionError(_ANSWERED) from None
        rounds = self._rounds(round_.series, measures)
        rounds.answer(session_id, _number(rounds, round_))
        # Last: of two processes that answer at once, one at least finds what the other has noted.
        self._check_other_answer(round_, run_id, content, measures)

    def _check_other_answer(self, round_: RoundName, run_id: int, content: bytes, measures: bool) -> None:
        """RepeatedSessionError if the round's update was sent before it is measured, or another content measured."""
        is_used, last = self._claims.record.is_used, self._rounds(round_.series, not measures).last_answered()
        # Rounds without a number have no order: their contents alone say which they are.
        late = last is not None and round_.number != _UNNUMBERED and round_.number <= last
        if measures:
            if late or is_used(self._content_key(run_id, content, False)):
                raise RepeatedSessionError("this node has sent the update of this round, and does not measure it again")
        elif late and not is_used(self._content_key(run_id, content, True)):
            raise RepeatedSessionError(
                f"in round {round_.number} this node has said how large its update to another message is, and sends no "
                "update to this one"
            )

    def _content_key(self, run_id: int, content: bytes, measures: bool) -> bytes:
        label = _MEASURED_LABEL if measures else _LABEL
        return label + hashlib.sha256(self._owner).digest() + content + str(run_id).encode()

    def _rounds(self, series: str, measures: bool = False) -> ClientRecord:
        # Each kind of answer has the whole budget.
        training = f"ranges of {self._training}" if measures else self._training
        return ClientRecord(
            self._claims.record, self._owner, training=training, run=series, max_rounds=self._max_rounds
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
