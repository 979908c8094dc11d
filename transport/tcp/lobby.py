"""The server's lobby: connections that are in no session yet, and the clients that wait for one.

A client is present once it has shown who it is, has said HELLO and is enrolled; each counts once, by its newest
connection.  Everything here is bounded: a frame is answered or refused, and nothing of it is kept but one HELLO.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from secagg import ClientId
from transport.certificates.exclusion import Exclusions
from transport.durable import frames as link
from transport.durable.frames import RefusalCode, Refused
from transport.durable.links import Allowance
from transport.durable.server_host import SessionHost
from transport.errors import LinkError
from transport.tcp.connection import PING, PONG, Connection, CutOffError


@dataclass(eq=False, slots=True)
class Visit:
    """One connection of a server, from its first frame on.

    Attributes:
        connection: where it is.
        number: later ones have higher numbers, counted when they were accepted.
        hello: what it said of itself.
        host: whose session it is in.
        is_refused: whether it was told to go; what else comes over it is not looked at.
        answered: how many PINGs in a row were answered without the host.
    """

    connection: Connection
    number: int
    hello: link.Hello | None = None
    host: SessionHost | None = None
    is_refused: bool = False
    answered: int = 0
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def client_id(self) -> ClientId:
        """Whose it is. Only of one whose client is known."""
        assert self.connection.client_id is not None  # noqa: S101 - the caller has seen to that
        return self.connection.client_id


class OpenVisits:
    """All connections of a server that have shown a certificate; of one client's, the newest few.

    Args:
        per_client: so many. A client that comes back has two for as long as the older one takes to end.
    """

    def __init__(self, per_client: int) -> None:
        self._per_client = per_client
        self._visits: dict[Visit, None] = {}
        self._of: dict[ClientId, set[Visit]] = {}

    def __iter__(self) -> Iterator[Visit]:
        return iter(tuple(self._visits))

    def enter(self, visit: Visit) -> None:
        """Take in a connection, of a client's if that is known; in its place its oldest one may be ended at once."""
        self._visits[visit] = None
        if visit.connection.client_id is None:
            return
        visits = self._of.setdefault(visit.client_id, set())
        visits.add(visit)
        if len(visits) > self._per_client:
            oldest = min(visits, key=lambda one: one.number)
            visits.remove(oldest)
            oldest.connection.cut(CutOffError("replaced", link.REPLACED_TEXT))
            # It may be waiting for a peer that does not read.
            oldest.connection.stream.abort()

    def leave(self, visit: Visit) -> None:
        """A connection has ended."""
        self._visits.pop(visit, None)
        if visit.connection.client_id is not None:
            visits = self._of.get(visit.client_id, set())
            visits.discard(visit)
            if not visits:
                self._of.pop(visit.client_id, None)


class Lobby:
    """Those that wait.

    Args:
        enrolled: who may; None lets in everybody who has shown who it is.
        exclusions: who of them is shut out.

    Attributes:
        needed: how many a session is waiting for; 0 while none is.
    """

    def __init__(self, enrolled: Iterable[ClientId] | None = None, exclusions: Exclusions | None = None) -> None:
        self.enrolled = None if enrolled is None else frozenset(enrolled)
        self._exclusions = exclusions
        self.needed = 0
        self._visits: dict[ClientId, Visit] = {}

    def __len__(self) -> int:
        return len(self._visits)

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """Who waits, in the order in which they came."""
        return tuple(self._visits)

    @property
    def visits(self) -> list[Visit]:
        """Those that wait, in the order in which they came."""
        return list(self._visits.values())

    def enter(self, visit: Visit) -> Visit | None:
        """Let a visit wait; gives the one that has to go: the same client's older one, be it this one itself."""
        present = self._visits.get(visit.client_id)
        if present is not None and present.number > visit.number:
            return visit
        self._visits[visit.client_id] = visit
        self._tell(visit)
        return present

    def leave(self, visit: Visit) -> None:
        """Let a visit wait no longer, if it does."""
        if visit.connection.client_id is not None and self._visits.get(visit.client_id) is visit:
            del self._visits[visit.client_id]

    def refusal(self, visit: Visit) -> Refused | None:
        """Why a visit's client is shut out now, if it is."""
        if self._exclusions is None:
            return None
        tls = visit.connection.stream.tls
        shown = None if tls is None else tls.getpeercert(binary_form=True)
        reason = self._exclusions.reason(visit.client_id, shown)
        return None if reason is None else Refused(RefusalCode.EXCLUDED, reason)

    def frame_received(self, visit: Visit, payload: bytes | memoryview, now: float) -> Refused | None:
        """Take a frame of a visit that is in no session. Gives why it is refused, if it is.

        Raises:
            CutOffError: it asks, and does not read.
        """
        try:
            frame = link.decode_client_frame(payload)
        except LinkError as error:
            return Refused(RefusalCode.PROTOCOL_ERROR, str(error))
        # The first one brings the connection further; all others cost no more than they may.
        if (visit.hello is not None or not isinstance(frame, link.Hello)) and not visit.allowance.spend(now):
            return link.TOO_MANY_FRAMES
        match frame:
            case link.Hello():
                return self._greet(visit, frame)
            case link.Ping() | link.Pong() if visit.hello is not None:
                if payload == PING:
                    visit.connection.send((PONG,))
                self._tell(visit)
                return None
            case _:
                # Without a HELLO nobody keeps a place: what is no client has no more time than for its first frame.
                what = "a message before an offer" if visit.hello is not None else "something before HELLO"
                return Refused(RefusalCode.PROTOCOL_ERROR, what)

    def _greet(self, visit: Visit, hello: link.Hello) -> Refused | None:
        if (refused := link.refused_version(hello)) is not None:
            return refused
        if visit.hello is not None and hello != visit.hello:
            return Refused(RefusalCode.PROTOCOL_ERROR, "a second, other HELLO")
        if self.enrolled is not None and visit.client_id not in self.enrolled:
            return Refused(RefusalCode.UNKNOWN_CLIENT, f"client {visit.client_id} is not enrolled here")
        if (refused := self.refusal(visit)) is not None:
            return refused
        visit.hello = hello
        return None

    def _tell(self, visit: Visit) -> None:
        """How many are here: at first, and with each sign of life, so that it costs next to nothing."""
        if self._visits.get(visit.client_id) is visit:
            visit.connection.send(link.encode(link.Waiting(len(self._visits), self.needed)))
