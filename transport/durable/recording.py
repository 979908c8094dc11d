"""The answers that the server's machine gets from outside, recorded the first time and repeated in a replay."""

from collections import deque
from collections.abc import Iterable, Mapping

from secagg import ClientId, EntropySource, KeyDirectory, identity
from transport.durable.server_journal import AnswerKind, Journal


class Outside:
    """A source of randomness and a directory of identity keys for a `secagg.Server`.

    While recorded answers are left, the machine gets these: other random bytes, or a directory that has learned keys
    since, would make a machine that differs from the one whose messages were sent.

    Args:
        entropy, directory: the real ones.
        journal: the journal that records the answers, or None.
        recorded: the answers to return first.
    """

    def __init__(
        self,
        entropy: EntropySource,
        directory: KeyDirectory | None,
        journal: Journal | None,
        recorded: Iterable[tuple[AnswerKind, bytes]] = (),
    ) -> None:
        self._entropy = entropy
        self._directory = directory
        self._journal = journal
        self._recorded = deque(recorded)
        self.replaying = False

    @property
    def exhausted(self) -> bool:
        """Return whether all recorded answers were used."""
        return not self._recorded

    def draw(self, size: int) -> bytes:
        """Return random bytes: an `EntropySource`."""
        if self.replaying:
            return self._repeat(AnswerKind.DRAW)
        drawn = self._entropy(size)
        if self._journal is not None:
            self._journal.record_answer(AnswerKind.DRAW, drawn)
        return drawn

    def is_trusted(self, client_id: ClientId, identity_key: bytes) -> bool:
        """Return whether the key is the client's identity key: a `KeyDirectory`."""
        if self.replaying:
            return self._repeat(AnswerKind.TRUST) == b"\x01"
        assert self._directory is not None  # noqa: S101 - the machine asks in malicious mode only
        trusted = bool(self._directory.is_trusted(client_id, identity_key))
        if self._journal is not None:
            self._journal.record_answer(AnswerKind.TRUST, bytes([trusted]))
        return trusted

    def learn(self, keys: Mapping[ClientId, bytes]) -> None:
        """Pass the keys to the real directory, which a replay does not ask: a `secagg.identity.LearningDirectory`."""
        if not self.replaying:
            identity.learn(self._directory, keys)

    def _repeat(self, kind: AnswerKind) -> bytes:
        assert self._journal is not None  # noqa: S101 - a replay has one
        if not self._recorded or self._recorded[0][0] is not kind:
            raise self._journal.mismatch("its replay needs other random bytes or keys than were recorded")
        return self._recorded.popleft()[1]
