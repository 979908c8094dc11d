"""A coordinator, fronts and clients in memory and virtual time: the world of `link_world` with a server in parts.

Each front may be killed, cut off from the coordinator, or slow; the coordinator may crash at any write; clients return
to any front. What is recorded is the same: a client must never see two messages under one number.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.transport.crashing_journals import CrashError, CrashingJournal
from tests.transport.link_world import CONTEXT, DEADLINES, World
from transport.durable.links import Counters
from transport.fronts import items
from transport.fronts.coordinator import Coordinator
from transport.fronts.front_host import FrontHost


@dataclass
class Front:
    """A front's process, and its channel to the coordinator."""

    name: str
    incarnation: int = 0
    host: FrontHost | None = None
    reachable: bool = True
    up: deque = field(default_factory=deque)
    down: deque = field(default_factory=deque)


class Parts:
    """The parts of the server, with the interface of `SessionHost` that a `World` uses."""

    def __init__(self, fronts: list[Front]) -> None:
        self.fronts = {front.name: front for front in fronts}
        self.at: dict[int, Front] = {}
        self.coordinator: Coordinator | None = None
        self.counters = Counters()

    # Channels.

    def open_channel(self, front: Front, now: float) -> None:
        front.up.clear()
        front.down.clear()
        self.coordinator.front_up(front.name, str(front.incarnation), now)

    def break_channel(self, front: Front, now: float) -> None:
        front.up.clear()
        front.down.clear()
        self.coordinator.front_down(front.name, now)

    def pump_up(self, front: Front, now: float, count: int | None = None) -> None:
        """Take items from a front to the coordinator: all, or some of them."""
        if front.host is not None:
            taken = front.host.take_items()
            if front.reachable:
                front.up += taken
        while front.reachable and front.up and count != 0:
            count = None if count is None else count - 1
            self.counters.frames_down += 1
            # What was taken is lost if the coordinator crashes in it.
            self.coordinator.items_received(front.name, [front.up.popleft()], now)

    def pump_down(self, front: Front, now: float, count: int | None = None) -> None:
        """Take items from the coordinator to a front."""
        while front.reachable and front.down and count != 0:
            count = None if count is None else count - 1
            self.counters.frames_down += 1
            item = front.down.popleft()
            if isinstance(item, items.Begin):
                if front.host is None:
                    front.host = FrontHost(item)
                else:
                    front.host.resume(item)
                front.up.clear()
            elif front.host is not None:
                front.host.items_received([item], now)

    # What a world asks a server.

    def connected(self, client_id: int, now: float, front: Front) -> int:
        self.at[client_id] = front
        return front.host.connected(client_id, now)

    def left(self, client_id: int, now: float, number: int, front: Front) -> None:
        if front.host is not None:
            front.host.left(client_id, now, number)

    def commit_coordinator(self, now: float) -> None:
        for name, item in self.coordinator.commit(now):
            front = self.fronts[name]
            if front.reachable:
                front.down.append(item)

    def __getattr__(self, name: str):
        return getattr(self.coordinator, name)


class FrontedWorld(World):
    """One session over two fronts."""

    num_fronts = 2
    release: Callable[[], None]
    home: dict[int, str] = {}  # noqa: RUF012 - clients connect to these fronts; others to any

    def start_server(self) -> None:
        if self.server is None and not hasattr(self, "parts"):
            self.parts = Parts([Front("ab"[i]) for i in range(self.num_fronts)])
            self.wire_front: dict[int, Front] = {}
        self.journal = CrashingJournal(self.directory / "server.journal")
        self.journal.crash_at, self.journal.on_point = self.server_crash_at, self.on_point
        arguments = {"deadlines": DEADLINES, "now": self.now, "context": CONTEXT, "directory": self.directory_of_keys}
        if self.journal.is_empty:
            assert not self.evidence.acknowledged, "acknowledged messages are lost"
            for front in self.parts.fronts.values():
                # A session that was never committed was never told.
                front.host = None
            coordinator = Coordinator(self.params, journal=self.journal, extra=b"round 7", **arguments)
        else:
            coordinator = Coordinator.resume(self.journal, **arguments)
            for client_id, sequence in self.evidence.acknowledged:
                assert len(coordinator._conversations.links[client_id].digests) > sequence, (
                    "an acknowledged one is lost"
                )
        self.parts.coordinator = coordinator
        self.server = self.parts  # type: ignore[assignment]
        for front in self.parts.fronts.values():
            if front.reachable:
                self.parts.open_channel(front, self.now)

    def crash_server(self) -> None:
        self.crashes += 1
        self.journal.close()
        self.server_crash_at = -1
        self.start_server()

    def kill_front(self, front: Front) -> None:
        self.crashes += 1
        for client_id in [i for i, at in self.wire_front.items() if at is front]:
            self.lose(client_id, server_notices=False)
        front.incarnation, front.host = front.incarnation + 1, None
        if front.reachable:
            self._serve(lambda: self.parts.open_channel(front, self.now))

    def cut_off(self, front: Front) -> None:
        if front.reachable:
            front.reachable = False
            self._serve(lambda: self.parts.break_channel(front, self.now))

    def heal(self, front: Front) -> None:
        if not front.reachable:
            front.reachable = True
            self._serve(lambda: self.parts.open_channel(front, self.now))

    # The network.

    def connect(self, client_id: int) -> None:
        there = [front for front in self.parts.fronts.values() if front.host is not None]
        if not there:
            return
        front = self.rng.choice(there)
        if client_id in self.home and self.parts.fronts[self.home[client_id]].host is not None:
            front = self.parts.fronts[self.home[client_id]]
        self.wire_front[client_id] = front
        number = self.parts.connected(client_id, self.now, front)
        self.wires[client_id] = self.new_wire(number)
        for parts in self.clients[client_id].connected():
            self.wires[client_id].up.append(b"".join(parts))

    def lose(self, client_id: int, *, server_notices: bool = True) -> None:
        wire, front = self.wires.pop(client_id, None), self.wire_front.pop(client_id, None)
        if wire is not None:
            self.clients[client_id].left()
            if server_notices:
                self.parts.left(client_id, self.now, wire.number, front)

    def deliver_up(self, client_id: int, *, keep: bool = False) -> None:
        wire, front = self.wires[client_id], self.wire_front[client_id]
        frame = wire.up[0] if keep else wire.up.popleft()
        front.host.frame_received(client_id, frame, self.now, wire.number)

    def connection_of(self, client_id: int) -> int:
        return self.wire_front[client_id].host._conversations.links[client_id].connection

    def commit(self) -> None:
        """Move everything between the parts once, and send what the fronts have for clients."""
        for front in self.parts.fronts.values():
            self._serve(lambda front=front: self.parts.pump_up(front, self.now))
        if self._serve(lambda: (self.parts.commit_coordinator(self.now), True)) is None:
            return
        for front in self.parts.fronts.values():
            self.parts.pump_down(front, self.now)
            self.send_from(front)
        if self.parts.outcome is not None:
            self.evidence.note_outcome(self.parts.outcome)
        if self.parts.job is not None:
            self._serve(lambda: self.parts.finish(self.parts.job.run(), self.now))

    def send_from(self, front: Front) -> None:
        if front.host is None:
            return
        front.host.tick(self.now)
        for out in front.host.commit(self.now):
            self.parts.counters.frames_down += 1
            self.note_down(out)
            wire = self.wires.get(out.client_id)
            if wire is not None and self.wire_front.get(out.client_id) is front and wire.number == out.connection:
                self.pass_on(wire, out)

    # Schedules.

    def settle(self, steps: int = 20_000):
        for front in self.parts.fronts.values():
            self.heal(front)
        return super().settle(steps)

    def random_step(self, fault_rate: float) -> None:
        rng, fronts = self.rng, list(self.parts.fronts.values())
        front = rng.choice(fronts)
        kind = rng.random()
        if kind < fault_rate / 3:
            rng.choice((self.kill_front, self.cut_off, self.heal, self.heal))(front)
        elif kind < 0.4:
            # Items move one by one, so that everything can happen between any two of them.
            count = rng.randint(1, 3)
            match rng.randint(0, 3):
                case 0:
                    self._serve(lambda: self.parts.pump_up(front, self.now, count))
                case 1:
                    self.parts.pump_down(front, self.now, count)
                case 2:
                    self.send_from(front)
                case 3:
                    self._serve(lambda: self.parts.commit_coordinator(self.now))
        else:
            super().random_step(fault_rate)

    def _serve(self, step):
        try:
            return step()
        except CrashError:
            self.crash_server()
            return None
