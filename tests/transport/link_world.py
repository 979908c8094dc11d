"""A server's host and its clients' hosts in memory and virtual time: connections, losses, crashes, in a seeded order.

Everything that leaves a host is recorded (`Evidence`), over all its restarts: a server must never send two different
messages under one number, a client must never give two answers, and acknowledged messages must still be there.
"""

import random
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from secagg import Aborted, Adversary, Completed, Parameters
from tests.support.sessions import any_session, directory_of, exact_sum, identity_of, make_params
from tests.transport.crashing_journals import CrashError, CrashingClientJournal, CrashingJournal, journal_directory
from transport.driver import Deadlines
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.client_host import ClientHost
from transport.durable.participation import ClientRecord, Participation
from transport.durable.server_host import Close, SessionHost

DEADLINES = Deadlines(
    advertise_keys=100, share_keys=100, masked_input_collection=100, consistency_check=100, unmasking=100
)
CONTEXT = b"model"
MESSAGE = link.encode(link.Message(0, b""))[0][0]


MODES = {
    "complete": make_params(5, 3, vector_length=7),
    "sparse": make_params(8, 2, vector_length=5, degree=4),
    "semi-malicious": make_params(8, 4, vector_length=5, degree=6, adversary=Adversary.SEMI_MALICIOUS),
    "malicious": make_params(5, 3, vector_length=7, adversary=Adversary.MALICIOUS),
    "malicious sparse": make_params(8, 3, vector_length=5, degree=4, adversary=Adversary.MALICIOUS),
}


@dataclass
class Evidence:
    """All messages sent, by (client, sequence number)."""

    down: dict[tuple[int, int], bytes] = field(default_factory=dict)
    up: dict[tuple[int, int], bytes] = field(default_factory=dict)
    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    inputs: dict[int, np.ndarray] = field(default_factory=dict)
    outcomes: list[Completed | Aborted] = field(default_factory=list)

    def note(self, said: dict[tuple[int, int], bytes], client_id: int, message: link.Message | _pieces.Large) -> None:
        if isinstance(message, _pieces.Large):
            # For a large one, the SHA-256 was sent.
            message = link.Message(message.head[1], message.digest)
        body = b"".join(message.body) if isinstance(message.body, tuple) else bytes(message.body)
        assert said.setdefault((client_id, message.sequence), body) == body, "two different messages under one number"

    def note_acknowledged(self, client_id: int, sequence: int) -> None:
        self.acknowledged.add((client_id, sequence))

    def note_input(self, client_id: int, vector: np.ndarray) -> None:
        """Record an input. The last request counts: no input is requested once an answer is stored."""
        self.inputs[client_id] = vector

    def note_outcome(self, outcome: Completed | Aborted) -> None:
        self.outcomes.append(outcome)

    def copy(self) -> "Evidence":
        return Evidence(dict(self.down), dict(self.up), set(self.acknowledged), dict(self.inputs), list(self.outcomes))

    def check_end(self, params: Parameters) -> Completed | Aborted:
        """Check the outcome: the exact sum of the inputs, or an abort; the same each time it was reported."""
        first, *others = self.outcomes
        assert all(other == first for other in others)
        if isinstance(first, Completed):
            assert first.sum.tolist() == exact_sum(params, [self.inputs[i] for i in first.included])
        return first


@dataclass
class Wire:
    """One connection: the bytes on their way in both directions."""

    number: int
    up: deque[bytes] = field(default_factory=deque)
    down: deque[bytes] = field(default_factory=deque)


class World:
    """One session. ``durable`` clients have a journal, the others start again after a crash."""

    def __init__(
        self,
        params: Parameters,
        directory: Path,
        seed: object,
        *,
        forgetful: tuple[int, ...] = (),
        evidence: Evidence | None = None,
        on_point: Callable[[], None] | None = None,
    ) -> None:
        self.params = params
        self.directory = directory
        self.rng = random.Random(str(seed))
        self.evidence = Evidence() if evidence is None else evidence
        self.on_point = on_point
        self.forgetful = forgetful
        self.now = 0.0
        self.wires: dict[int, Wire] = {}
        self.clients: dict[int, ClientHost | None] = {}
        self.gone: set[int] = set()
        self.directory_of_keys = (
            directory_of(range(params.num_clients)) if params.adversary is Adversary.MALICIOUS else None
        )
        self.server_crash_at = -1
        self.client_crash_at: dict[int, int] = {}
        self.crashes = 0
        self.server: SessionHost | None = None
        self.start_server()
        for client_id in range(params.num_clients):
            self.start_client(client_id)

    # Starts and ends of processes.

    def start_server(self) -> None:
        self.journal = CrashingJournal(self.directory / "server.journal")
        self.journal.crash_at, self.journal.on_point = self.server_crash_at, self.on_point
        arguments = {"deadlines": DEADLINES, "now": self.now, "context": CONTEXT, "directory": self.directory_of_keys}
        if self.journal.is_empty:
            assert not self.evidence.acknowledged, "acknowledged messages are lost"
            self.server = SessionHost(self.params, journal=self.journal, extra=b"round 7", **arguments)
        else:
            self.server = SessionHost.resume(self.journal, **arguments)
            for client_id, sequence in self.evidence.acknowledged:
                assert len(self.server._conversations.links[client_id].digests) > sequence, (
                    "an acknowledged message is lost"
                )

    def crash_server(self) -> None:
        self.crashes += 1
        self.journal.close()
        for client_id in list(self.wires):
            self.lose(client_id, server_notices=False)
        self.server_crash_at = -1
        self.server = None
        self.start_server()

    def _client_arguments(self, client_id: int) -> dict:
        signed = self.params.adversary is Adversary.MALICIOUS
        # A client without a journal remembers nothing.
        path = None if client_id in self.forgetful else self.directory / "participation.db"
        return {
            "identity": identity_of(client_id) if signed else None,
            "directory": self.directory_of_keys if signed else None,
            "record": ClientRecord(Participation(path), b"client %d" % client_id, training="world"),
        }

    def start_client(self, client_id: int) -> None:
        journal = None
        if client_id not in self.forgetful:
            journal = CrashingClientJournal(self.directory / f"{client_id}.journal", self.directory / "key")
            journal.crash_at, journal.on_point = self.client_crash_at.pop(client_id, -1), self.on_point

        def provide(offer: link.Offer) -> np.ndarray:
            assert offer.extra == b"round 7"
            rng = np.random.default_rng(self.rng.getrandbits(32))
            vector = rng.integers(0, 1 << self.params.value_bits, self.params.vector_length)
            self.evidence.note_input(client_id, vector)
            return vector

        arguments = self._client_arguments(client_id)
        if journal is not None and not journal.is_empty:
            self.clients[client_id] = ClientHost.resume(journal, provide, **arguments)
        else:
            self.clients[client_id] = ClientHost(
                client_id, provide, accept=any_session, context=CONTEXT, journal=journal, **arguments
            )

    def crash_client(self, client_id: int) -> None:
        self.crashes += 1
        host = self.clients[client_id]
        if host._journal is not None:
            host._journal.close()
        elif self.evidence.up.keys() & {(client_id, 0)}:
            # It starts again, with other keys, and must be refused.
            for key in [key for key in self.evidence.up if key[0] == client_id]:
                del self.evidence.up[key]
        self.lose(client_id, server_notices=self.rng.random() < 0.5)
        self.start_client(client_id)

    # The network.

    def connect(self, client_id: int) -> None:
        number = self._serve(lambda: self.server.connected(client_id, self.now))
        if number is None:
            return
        self.wires[client_id] = Wire(number)
        for parts in self.clients[client_id].connected():
            self.wires[client_id].up.append(b"".join(parts))

    def lose(self, client_id: int, *, server_notices: bool = True) -> None:
        wire = self.wires.pop(client_id, None)
        if wire is not None:
            self.clients[client_id].left()
            if server_notices and self.server is not None:
                self.server.left(client_id, self.now, wire.number)

    def deliver_up(self, client_id: int, *, keep: bool = False) -> None:
        wire = self.wires[client_id]
        frame = wire.up[0] if keep else wire.up.popleft()
        self._serve(lambda: self.server.frame_received(client_id, frame, self.now, wire.number))

    def deliver_down(self, client_id: int) -> None:
        wire, host = self.wires[client_id], self.clients[client_id]
        payload = wire.down.popleft()
        try:
            frames = host.frame_received(payload)
        except CrashError:
            self.crash_client(client_id)
            return
        for parts in frames:
            sent = link.decode_client_frame(b"".join(parts))
            if isinstance(sent, link.Message | _pieces.Large):
                self.evidence.note(self.evidence.up, client_id, sent)
            wire.up.append(b"".join(parts))
        if host.finished:
            self.lose(client_id)

    def commit(self) -> None:
        outgoing = self._serve(lambda: self.server.commit(self.now))
        for out in outgoing or []:
            self.note_down(out)
            wire = self.wires.get(out.client_id)
            if wire is not None and wire.number == out.connection:
                self.pass_on(wire, out)
        if outgoing is not None and self.server.outcome is not None:
            self.evidence.note_outcome(self.server.outcome)
        if self.server.job is not None:
            self._serve(lambda: self.server.finish(self.server.job.run(), self.now))

    def note_down(self, out) -> None:
        """Record what the server sends."""
        frame = link.decode_server_frame(b"".join(out.parts))
        if isinstance(frame, link.Message) or (isinstance(frame, _pieces.Large) and frame.head[0] == MESSAGE):
            self.evidence.note(self.evidence.down, out.client_id, frame)
        if isinstance(frame, link.Ack):
            self.evidence.note_acknowledged(out.client_id, frame.sequence)

    @staticmethod
    def pass_on(wire: Wire, out) -> None:
        """Put a frame of the server on a connection."""
        wire.down.append(b"".join(out.parts))
        if isinstance(out, Close):
            wire.up.clear()

    @staticmethod
    def new_wire(number: int) -> Wire:
        return Wire(number)

    def connection_of(self, client_id: int) -> int:
        """Return the number of the client's connection at the server; 0 if it has none."""
        return self.server._conversations.links[client_id].connection

    def _serve(self, step):
        try:
            return step()
        except CrashError:
            self.crash_server()
            return None

    # Schedules.

    def settle(self, steps: int = 20_000) -> Completed | Aborted:
        """Run to the end without more faults. Missing clients are waited for until the deadline."""
        for _ in range(steps):
            over = self.gone | {i for i, client in self.clients.items() if client.finished}
            if self.server.outcome is not None and self.server.untold <= over:
                # A server that was resumed with its outcome may have nothing more to commit.
                self.evidence.note_outcome(self.server.outcome)
                return self.evidence.check_end(self.params)
            if not self.step_without_faults():
                self.now = self.server.deadline if self.server.deadline is not None else self.now + 1.0
                self._serve(lambda: self.server.tick(self.now))
        phases = {i: (client.finished, client.error, client.outcome) for i, client in self.clients.items()}
        raise AssertionError(f"no end: {self.server.status}, untold {self.server.untold}, clients {phases}")

    def step_without_faults(self) -> bool:
        """Do everything that is due, once; return whether anything was."""
        acted = False
        for client_id, host in list(self.clients.items()):
            if client_id not in self.gone and not host.finished and client_id not in self.wires:
                self.connect(client_id)
                acted = True
        for client_id in list(self.wires):
            if client_id in self.wires and self.wires[client_id].up:
                self.deliver_up(client_id)
                acted = True
        before = self.server.counters.frames_down
        self.commit()
        acted |= self.server.counters.frames_down != before
        for client_id in list(self.wires):
            while client_id in self.wires and self.wires[client_id].down:
                self.deliver_down(client_id)
                acted = True
        # A connection that the server closed ends after its last bytes are read.
        for client_id in list(self.wires):
            if self.connection_of(client_id) != self.wires[client_id].number:
                self.lose(client_id)
                acted = True
        return acted

    def random_step(self, fault_rate: float) -> None:
        """Do one thing: a fault, or something that is due."""
        rng = self.rng
        self.now += rng.random() * 2
        if rng.random() < fault_rate:
            self._fault(rng.choice(sorted(self.clients)), rng.choice(FAULTS))
            return
        choices = [lambda: self.commit(), lambda: self._serve(lambda: self.server.tick(self.now))]
        for client_id, host in self.clients.items():
            wire = self.wires.get(client_id)
            if wire is None:
                if client_id not in self.gone and not host.finished:
                    choices.append(lambda i=client_id: self.connect(i))
                continue
            if wire.up:
                choices.append(lambda i=client_id: self.deliver_up(i))
            if wire.down:
                choices += [lambda i=client_id: self.deliver_down(i)] * 2
            elif self.connection_of(client_id) != wire.number:
                choices.append(lambda i=client_id: self.lose(i))
        rng.choice(choices)()

    def _fault(self, client_id: int, fault: str) -> None:
        wire = self.wires.get(client_id)
        match fault:
            case "lose":
                self.lose(client_id)
            case "half-open":
                self.lose(client_id, server_notices=False)
            case "duplicate" if wire is not None and wire.up:
                self.deliver_up(client_id, keep=True)
            case "server":
                self.crash_server()
            case "server inside":
                self.journal.crash_at = self.journal.operations + self.rng.randint(1, 8)
            case "client" if not self.clients[client_id].finished:
                self.crash_client(client_id)
            case "client inside":
                journal = self.clients[client_id]._journal
                if journal is not None:
                    journal.crash_at = journal.operations + self.rng.randint(1, 3)
            case "gone" if len(self.gone) < self.params.num_clients - self.params.threshold and self.rng.random() < 0.3:
                self.lose(client_id)
                self.gone.add(client_id)

    def close(self) -> None:
        self.journal.close()
        for host in self.clients.values():
            if host._journal is not None:
                host._journal.close()

    def snapshot(self, target: Path) -> None:
        """Copy the files as they are at this moment: the state after a power cut."""
        target.mkdir()
        for path in self.directory.iterdir():
            if path.is_file():
                shutil.copy(path, target / path.name)
        (target / "key").chmod(0o600)

    def restarted_from(self, files: Path) -> "World":
        """Restart all processes from these files; everything that was on its way is lost."""
        return World(self.params, files, self.rng.random(), forgetful=self.forgetful, evidence=self.evidence.copy())


FAULTS = ("lose", "half-open", "duplicate", "server", "server inside", "client", "client inside", "gone")


def run_schedule(
    mode: str, seed: int, fault_rate: float = 0.06, kind: type[World] | None = None
) -> tuple[Completed | Aborted, int]:
    """Run one session with faults in a seeded order; return its checked outcome and how many processes crashed."""
    with journal_directory() as directory:
        # In a third of the sessions one client has no journal, and does not survive its crashes.
        world = (kind or World)(MODES[mode], directory, (mode, seed), forgetful=(0,) if seed % 3 == 0 else ())
        try:
            for _ in range(world.rng.randint(50, 400)):
                world.random_step(fault_rate)
                if world.server.outcome is not None:
                    break
            return world.settle(), world.crashes
        finally:
            world.close()
