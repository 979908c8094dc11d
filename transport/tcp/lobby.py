"""The server's lobby: connections that are in no session yet, and the clients that wait for one.

A client waits once it is identified, has sent HELLO and is enrolled; each counts once, with its newest connection.  All
memory is bounded: a frame is answered or refused, and only one HELLO of it is stored.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secagg import ClientId
from transport.certificates.exclusion import Exclusions
from transport.durable import frames as link
from transport.durable.frames import RefusalCode, Refused
from transport.durable.links import Allowance
from transport.errors import LinkError
from transport.tcp.connection import PING, PONG, Connection, CutOffError

if TYPE_CHECKING:
    from transport.tcp.server import ClientsHost


@dataclass(eq=False, slots=True)
class Visit:
    """One connection of a server, from its first frame on.

    Attributes:
        connection: the connection.
        number: a number that grows in the order of acceptance.
        hello: its HELLO.
        host: the host of its session.
        is_refused: whether it was refused; its further frames are ignored.
        answered: number of PINGs in a row that were answered without the host.
    """

    connection: Connection
    number: int
    hello: link.Hello | None = None
    host: "ClientsHost | None" = None
    is_refused: bool = False
    answered: int = 0
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def client_id(self) -> ClientId:
        """Return the client; only for connections of a known client."""
        assert self.connection.client_id is not None  # noqa: S101 - the caller has seen to that
        return self.connection.client_id


class OpenVisits:
    """All identified connections of a server; for each client, the newest few.

    Args:
        per_client: maximum number for one client. A client that returns has two until the older one has ended.
    """

    def __init__(self, per_client: int) -> None:
        self._per_client = per_client
        self._visits: dict[Visit, None] = {}
        self._of: dict[ClientId, set[Visit]] = {}

    def __iter__(self) -> Iterator[Visit]:
        return iter(tuple(self._visits))

    def enter(self, visit: Visit) -> None:
        """Add a connection; if its client now has too many, its oldest one ends at once."""
        self._visits[visit] = None
        if visit.connection.client_id is None:
            return
        visits = self._of.setdefault(visit.client_id, set())
        visits.add(visit)
        if len(visits) > self._per_client:
            oldest = min(visits, key=lambda one: one.number)
            visits.remove(oldest)
            oldest.connection.cut(CutOffError("replaced", link.REPLACED_TEXT))
            # It may wait for a peer that does not read.
            oldest.connection.stream.abort()

    def leave(self, visit: Visit) -> None:
        """Note that a connection has ended."""
        self._visits.pop(visit, None)
        if visit.connection.client_id is not None:
            visits = self._of.get(visit.client_id, set())
            visits.discard(visit)
            if not visits:
                self._of.pop(visit.client_id, None)


class Lobby:
    """The clients that wait for a session.

    Args:
        enrolled: the clients that may wait; None accepts all identified clients.
        exclusions: the clients among them that are excluded.

    Attributes:
        needed: number of clients that a session waits for; 0 if none waits.
        elsewhere: number of clients that wait for it at other servers.
    """

    def __init__(self, enrolled: Iterable[ClientId] | None = None, exclusions: Exclusions | None = None) -> None:
        self.enrolled = None if enrolled is None else frozenset(enrolled)
        self._exclusions = exclusions
        self.needed = self.elsewhere = 0
        self._visits: dict[ClientId, Visit] = {}

    def __len__(self) -> int:
        return len(self._visits)

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """Return the ids of the waiting clients, in the order of their arrival."""
        return tuple(self._visits)

    @property
    def visits(self) -> list[Visit]:
        """Return the waiting visits, in the order of their arrival."""
        return list(self._visits.values())

    def of(self, client_id: ClientId) -> Visit | None:
        """Return the visit of a client that waits."""
        return self._visits.get(client_id)

    def enter(self, visit: Visit) -> Visit | None:
        """Let a visit wait, and return the older visit of the same client, which must end; it may be this one."""
        present = self._visits.get(visit.client_id)
        if present is not None and present.number > visit.number:
            return visit
        self._visits[visit.client_id] = visit
        self._tell(visit)
        return present

    def leave(self, visit: Visit) -> None:
        """Remove a visit if it waits."""
        if visit.connection.client_id is not None and self._visits.get(visit.client_id) is visit:
            del self._visits[visit.client_id]

    def refusal(self, visit: Visit) -> Refused | None:
        """Return the refusal if a visit's client is excluded now, else None."""
        if self._exclusions is None:
            return None
        tls = visit.connection.stream.tls
        shown = None if tls is None else tls.getpeercert(binary_form=True)
        reason = self._exclusions.reason(visit.client_id, shown)
        return None if reason is None else Refused(RefusalCode.EXCLUDED, reason)

    def frame_received(self, visit: Visit, payload: bytes | memoryview, now: float) -> Refused | None:
        """Take a frame of a visit that is in no session, and return the refusal if it is refused.

        Raises:
            CutOffError: it sends requests and does not read the answers.
        """
        try:
            frame = link.decode_client_frame(payload)
        except LinkError as error:
            return Refused(RefusalCode.PROTOCOL_ERROR, str(error))
        # The first HELLO advances the connection; all others count against its allowance.
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
                # Without a HELLO a connection keeps no place: a peer that is not a client has only the time for its
                # first frame.
                what = "a message before an offer" if visit.hello is not None else "a frame came before HELLO"
                return Refused(RefusalCode.PROTOCOL_ERROR, what)

    def _greet(self, visit: Visit, hello: link.Hello) -> Refused | None:
        if (refused := link.refused_version(hello)) is not None:
            return refused
        if visit.hello is not None and hello != visit.hello:
            return Refused(RefusalCode.PROTOCOL_ERROR, "a second HELLO differs from the first")
        if self.enrolled is not None and visit.client_id not in self.enrolled:
            return Refused(RefusalCode.UNKNOWN_CLIENT, f"client {visit.client_id} is not enrolled here")
        if (refused := self.refusal(visit)) is not None:
            return refused
        visit.hello = hello
        return None

    def _tell(self, visit: Visit) -> None:
        """Send the number of waiting clients: at first, and with each PING, so that it costs almost nothing."""
        if self._visits.get(visit.client_id) is visit:
            visit.connection.send(link.encode(link.Waiting(len(self._visits) + self.elsewhere, self.needed)))
