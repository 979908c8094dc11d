"""The server's machine with its journal: all inputs are recorded first, and a replay gives the same machine."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice

from secagg import (
    Aborted,
    ClientDropped,
    ClientId,
    Completed,
    DropReason,
    EntropySource,
    KeyDirectory,
    LocalProtocolError,
    MaskSum,
    Round,
    Server,
    max_message_bytes,
)
from secagg.identity import check_directory
from transport.driver import Deadlines, Delivery, ServerDriver
from transport.durable.database import MAX_BLOB_BYTES
from transport.durable.frames import End, EndCode, Offer
from transport.durable.partial_sums import PartialSum
from transport.durable.recording import Outside
from transport.durable.server_journal import Entry, EntryKind, Header, Journal
from transport.errors import JournalError

# In sessions with more clients than this, each round is closed beside the event loop.
_MANY_CLIENTS = 1_000


class RecordedMachine:
    """A `ServerDriver` with a journal of its inputs, in their order.

    The driver's actions depend only on these inputs and on the answers of `Outside`; times only decide when a round is
    closed, and a closing is an input.
    """

    def __init__(
        self,
        offer: Offer,
        client_ids: tuple[ClientId, ...],
        *,
        context: bytes,
        deadlines: Deadlines,
        directory: KeyDirectory | None,
        journal: Journal | None,
        entropy: EntropySource,
    ) -> None:
        check_directory(offer.params, directory)
        recorded = () if journal is None or journal.is_empty else journal.answers()
        self._outside = Outside(entropy, directory, journal, recorded)
        self.server = Server(
            offer.params,
            client_ids,
            context=context,
            nonce=offer.nonce,
            directory=None if directory is None else self._outside,
            entropy=self._outside.draw,
        )
        self._deadlines = deadlines
        # Closing a round of very many clients takes seconds, as does recovering secrets from wrong shares.
        is_large = offer.params.num_clients > _MANY_CLIENTS
        self._deferred = frozenset(Round) if is_large else frozenset((Round.UNMASKING,))
        self.driver = ServerDriver(self.server, deadlines, deferred=self._deferred)
        self._journal = journal
        # A hash of all results: a replay by a version that acts differently must be noticed.
        self._given = hashlib.sha256()
        self._drops_seen = 0
        self._broken: str | None = None
        self._last_digest: tuple[object, bytes] = (None, b"")

    @property
    def session_id(self) -> bytes:
        """Return the session id."""
        return self.server.session_id

    @property
    def round(self) -> Round:
        """Return the open round, or the last one."""
        return self.driver.round

    @property
    def deadline(self) -> float | None:
        """Return the time at which the open round closes."""
        return self.driver.deadline

    @property
    def dropped(self) -> Mapping[ClientId, ClientDropped]:
        """Return the dropped clients, in the order of their drops."""
        return self.driver.dropped

    @property
    def end(self) -> End | None:
        """Return the frame that tells clients how the session ended; None before its end."""
        match self.driver.outcome:
            case Completed() as completed:
                return End(EndCode.COMPLETED, len(completed.included))
            case Aborted() as aborted:
                return End(EndCode[aborted.reason.name], 0, str(aborted))
        return None

    def downloading(self, now: float) -> None:
        """Note that a client received a part of the announcement."""
        self.driver.downloading(now)

    def begin(self, header: Header, now: float) -> None:
        """Begin a new session: open its first round."""
        if self._journal is not None:
            if (longest := max_message_bytes(self.server.params)) > MAX_BLOB_BYTES:
                raise JournalError(
                    f"messages have up to {longest} bytes, but a journal takes at most {MAX_BLOB_BYTES} bytes for one"
                )
            self._journal.begin(header)
        self.driver.start(now)

    def message(self, client_id: ClientId, data: bytes | memoryview, now: float, digest: bytes) -> list[Delivery]:
        """Take a client's message; its SHA-256 is of no use here."""
        with self._guarded():
            self._record(EntryKind.MESSAGE, client_id, data)
            return self._noted(self.driver.data_received(client_id, data, now))

    def partial(self, partial: PartialSum, now: float) -> list[Delivery]:
        """Take the sum of several clients' masked inputs.

        Raises:
            secagg.LocalProtocolError: the sum was refused as a whole, and is not in the journal.
        """
        with self._guarded():
            try:
                deliveries = self.driver.partial_received(partial.client_ids, partial.vector, now)
            except LocalProtocolError as error:
                refused = error
            else:
                # Nothing else is recorded between the machine's act and this.
                self._record(EntryKind.PARTIAL, 0, partial.to_bytes())
                return self._noted(deliveries)
        raise refused

    def drop(self, client_id: ClientId, reason: DropReason, detail: str, now: float) -> list[Delivery]:
        """Drop a client for good."""
        with self._guarded():
            self._record(EntryKind.DROP, client_id, f"{reason.name}\n{detail}".encode())
            return self._noted(self.driver.drop(client_id, now, reason, detail))

    def tick(self, now: float) -> list[Delivery]:
        """Close the open round if its deadline has passed, or set the driver's `closing_due`."""
        is_due = self.driver.deadline is not None and now >= self.driver.deadline
        return self.close_soon(now) if is_due else []

    def close_soon(self, now: float) -> list[Delivery]:
        """Close the open round, or set the driver's `closing_due`."""
        return self.driver.close_soon(now) if self.driver.round in self._deferred else self.close_round(now)

    def close_round(self, now: float) -> list[Delivery]:
        """Close the open round."""
        with self._guarded():
            self._record(EntryKind.CLOSE)
            return self._noted(self.driver.close_round(now))

    def abort(self) -> None:
        """End the session without a sum."""
        if self.driver.outcome is None:
            with self._guarded():
                self._record(EntryKind.ABORT)
                self._abort()

    def finish(self, masks: MaskSum, now: float) -> None:
        """Take the result of the job. It is not recorded, since it follows from the recorded inputs."""
        self.driver.finish(masks, now)

    def commit(self, *, tells: bool = True) -> bool:
        """Make all inputs durable, and return whether there were any.

        Args:
            tells: whether anything is sent or reported after it, which needs a journal that nobody has taken over.

        Raises:
            JournalError: that fails, or another process has the session; the machine's messages must not be sent.
        """
        with self._guarded():
            if self._journal is None:
                return False
            if not self._journal.is_dirty:
                if tells:
                    self._journal.confirm()
                return False
            self._journal.record(EntryKind.CHECK, data=self._given.digest())
            self._journal.commit()
            return True

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Refuse everything after an error within, since machine and journal may differ then."""
        if self._broken is not None:
            raise JournalError(f"the session stopped here: {self._broken}; start again to resume")
        self._broken = "a call did not return"
        try:
            yield
        except BaseException as error:
            self._broken = str(error) if isinstance(error, JournalError) else type(error).__name__
            raise
        self._broken = None

    def replay(self, now: float) -> Iterator[tuple[Entry, list[Delivery]]]:
        """Replay the journal; yield each input with the messages that it led to.

        Raises:
            JournalError: the journal is damaged, or this version of the library acts differently.
        """
        assert self._journal is not None  # noqa: S101 - there is one to replay
        self._outside.replaying = True
        self.driver.start(now)
        for entry in self._journal.entries():
            yield entry, self._repeat(entry, now)
        if not self._outside.exhausted:
            raise self._journal.mismatch("its replay needs fewer random bytes or keys than were recorded")
        self._outside.replaying = False
        if self.driver.deadline is not None:
            self.driver.deadline = now + self._deadlines.of(self.driver.round)

    def _repeat(self, entry: Entry, now: float) -> list[Delivery]:
        assert self._journal is not None  # noqa: S101
        match entry.kind:
            case EntryKind.MESSAGE:
                return self._noted(self.driver.data_received(entry.client_id, entry.data, now))
            case EntryKind.PARTIAL:
                try:
                    partial = PartialSum.from_bytes(entry.data, self.server.params)
                    return self._noted(self.driver.partial_received(partial.client_ids, partial.vector, now))
                except (LocalProtocolError, ValueError) as error:
                    raise self._journal.mismatch(f"a partial sum: {error}") from None
            case EntryKind.DROP:
                reason, detail = self._parsed_drop(entry.data)
                return self._noted(self.driver.drop(entry.client_id, now, reason, detail))
            case EntryKind.CLOSE if self.driver.deadline is not None or self.driver.closing_due:
                return self._noted(self.driver.close_round(now))
            case EntryKind.ABORT:
                self._abort()
                return []
            case EntryKind.CHECK if entry.data == self._given.digest():
                return []
        raise self._journal.mismatch("its replay gives other results; was it begun by another version of this library?")

    def _parsed_drop(self, data: bytes) -> tuple[DropReason, str]:
        assert self._journal is not None  # noqa: S101
        name, _, detail = data.decode(errors="replace").partition("\n")
        try:
            return DropReason[name], detail
        except KeyError:
            raise self._journal.mismatch("a client was dropped for an unknown reason") from None

    def _abort(self) -> None:
        for event in self.server.abort():
            assert not isinstance(event, ClientDropped)  # noqa: S101
            self.driver.outcome = event  # type: ignore[assignment]
        self.driver.deadline, self.driver.closing_due, self.driver.job = None, False, None
        self._given.update(b"abort")

    def _record(self, kind: EntryKind, client_id: ClientId = 0, data: bytes | memoryview = b"") -> None:
        if self._journal is not None:
            self._journal.record(kind, client_id, data)

    def _noted(self, deliveries: list[Delivery]) -> list[Delivery]:
        dropped = self.driver.dropped
        for drop in islice(dropped.values(), self._drops_seen, None) if len(dropped) > self._drops_seen else ():
            self._given.update(b"drop %d %s\n" % (drop.client_id, drop.reason.name.encode()))
        self._drops_seen = len(dropped)
        for client_id, data in deliveries:
            if self._last_digest[0] is not data:
                self._last_digest = data, hashlib.sha256(data).digest()
            self._given.update(b"send %d %s\n" % (client_id, self._last_digest[1]))
        if self.driver.outcome is not None:
            self._given.update(str(self.driver.outcome).encode())
        return deliveries


def resumable(journal: Journal) -> Header:
    """Return the journal's head. JournalError if it holds no session."""
    if not isinstance(journal, Journal):
        raise JournalError(f"resume() needs a transport.Journal, not {type(journal).__name__}")
    return journal.header


def check_same(journal: Journal, begun: tuple[object, ...], given: tuple[object, ...]) -> None:
    """Raise JournalError if an argument that is not None differs from the session in the journal."""
    names = ("parameters", "clients", "nonce", "announcement", "number")
    others = [name for name, was, now in zip(names, begun, given, strict=True) if now not in (None, was)]
    if others:
        raise JournalError(
            f"{journal.path} holds a session with other {', '.join(others)}: resume it with its own, or "
            "choose another path"
        )
