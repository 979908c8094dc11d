"""Writes the generated parts of docs/protocol.md and docs/wire-format.md: state tables and dumps of messages.

    python -m tools.state_tables

Everything is observed: real machines are driven through real sessions, with seeded randomness, and halted in each
phase; then each message and call is tried on them, and what happens is written down.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import secagg
from secagg import (
    SERVER,
    Aborted,
    Adversary,
    Client,
    ClientDropped,
    ClientPhase,
    Identity,
    InputRequested,
    LocalProtocolError,
    Parameters,
    PinnedKeys,
    RemoteProtocolError,
    Send,
    Server,
    ServerPhase,
    UnmaskReady,
)
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    Message,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import required_ring_bits

DOCS = Path(__file__).parents[1] / "docs"

ALICE = 3
"""The client under test."""

STRANGER = 4

CONTEXT = b"model 1"
NONCE = b"nonce 1"

VECTORS = {3: (1, 2, 3), 258: (10, 0, 15), 1000: (7, 8, 9)}
"""The inputs: of the session that is dumped, the first two; of that of the tables, all three."""

Cells: TypeAlias = list[str]

_MODES = (Adversary.HONEST_BUT_CURIOUS, Adversary.MALICIOUS)


def seeded(name: str) -> Callable[[int], bytes]:
    """A repeatable source of randomness: draw i is SHAKE-256 of the name and i. For documents and tests alone."""
    count = 0

    def entropy(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name}/{count}".encode()).digest(size)

    return entropy


def identity_of(client_id: int) -> Identity:
    """A client's identity; for documents and tests alone."""
    return Identity(hashlib.sha256(f"identity/{client_id}".encode()).digest())


class Recording:
    """One session, from which machines in any phase are rebuilt, and messages of each type taken."""

    def __init__(self, adversary: Adversary, num_clients: int) -> None:
        self.ids = tuple(VECTORS)[:num_clients]
        self.params = Parameters(
            num_clients=num_clients,
            threshold=2,
            degree=num_clients - 1,
            vector_length=3,
            value_bits=4,
            ring_bits=required_ring_bits(num_clients, 4),
            adversary=adversary,
        )
        self.messages: dict[tuple[type, int], Any] = {}
        self.signed = self.params.is_signed
        self._trust: dict[str, Any] = (
            {"directory": PinnedKeys({i: identity_of(i).public_key for i in self.ids})} if self.signed else {}
        )
        self._job: secagg.UnmaskJob | None = None
        self.end = self._run()
        self.session_id = self.message(AdvertiseKeys).session_id

    def message(self, kind: type, client_id: int = ALICE) -> Any:
        """The message of this type that the client sent or got."""
        return self.messages[kind, client_id]

    def new_client(self, client_id: int) -> Client:
        own: dict[str, Any] = {"identity": identity_of(client_id)} if self.signed else {}
        entropy = seeded(f"client {client_id}")
        return Client(self.params, client_id, context=CONTEXT, nonce=NONCE, entropy=entropy, **self._trust, **own)

    def new_server(self, nonce: bytes = NONCE) -> Server:
        return Server(self.params, self.ids, context=CONTEXT, nonce=nonce, entropy=seeded("server"), **self._trust)

    def client(self, phase: ClientPhase) -> Client:
        """The client under test, in this phase."""
        client = self.new_client(ALICE)
        for step in self._client_steps(client):
            if client.phase is phase:
                return client
            step()
        if phase is ClientPhase.ABORTED:
            client = self.new_client(ALICE)
            client.abort()
        elif phase is ClientPhase.SUSPENDED:
            client = self.new_client(ALICE)
            client.suspend()
        return client

    def server(self, phase: ServerPhase) -> Server:
        """A server in this phase, which has got no message of its round."""
        server = self.new_server()
        if phase is ServerPhase.ABORTED:
            server.abort()
        while server.phase is not phase:
            self.step(server)
        return server

    def step(self, server: Server) -> None:
        """Give the server everything that it waits for, and close its round."""
        if server.phase is ServerPhase.RECOVERY:
            server.finish(self.done())
            return
        for client_id in self.ids:
            server.receive(client_id, self.message(answers(self.signed)[server.phase], client_id))
        server.close_round()

    def other_session(self, message: Any) -> Any:
        """The same message under another session's id."""
        values = {name: getattr(message, name) for name in message.__slots__}
        return type(message)(**{**values, "session_id": bytes(32)})

    def done(self) -> secagg.MaskSum:
        """The result of the recorded session's job."""
        if self._job is None:
            raise RuntimeError("the recorded session gave no job")
        return self._job.run()

    def _client_steps(self, client: Client) -> Iterator[Callable[[], object]]:
        yield client.start
        yield lambda: client.receive(self.message(PeerKeys))
        yield lambda: client.receive(self.message(PeerShares))
        yield lambda: client.submit_input(np.array(VECTORS[ALICE]))
        yield lambda: client.receive(self.message(SurvivorList))
        if self.signed:
            yield lambda: client.receive(self.message(ConsistencyProof))
        yield lambda: None

    def _run(self) -> secagg.Completed:
        server = self.new_server()
        clients = {client_id: self.new_client(client_id) for client_id in self.ids}
        for client in clients.values():
            self._upward(server, client, client.start())
        while True:
            for event in server.close_round():
                match event:
                    case Send(to=int() as client_id, message=message):
                        self.messages[type(message), client_id] = message
                        self._upward(server, clients[client_id], clients[client_id].receive(message))  # type: ignore[arg-type]
                    case UnmaskReady(job):
                        self._job = job
                        (completed,) = server.finish(job.run())
                        if isinstance(completed, secagg.Completed):
                            return completed

    def _upward(self, server: Server, client: Client, events: Iterable[secagg.events.ClientEvent]) -> None:
        for event in events:
            if isinstance(event, InputRequested):
                self._upward(server, client, client.submit_input(np.array(VECTORS[client.client_id])))
            else:
                self.messages[type(event.message), client.client_id] = event.message
                server.receive(client.client_id, event.message)  # type: ignore[arg-type]


def answers(signed: bool) -> dict[ServerPhase, type]:
    """The message that each phase of the server awaits."""
    rounds: dict[ServerPhase, type] = {
        ServerPhase.ADVERTISE_KEYS: AdvertiseKeys,
        ServerPhase.SHARE_KEYS: ShareKeys,
        ServerPhase.MASKED_INPUT_COLLECTION: MaskedInput,
        ServerPhase.CONSISTENCY_CHECK: ConsistencyCheck,
        ServerPhase.UNMASKING: UnmaskingShares,
    }
    if not signed:
        del rounds[ServerPhase.CONSISTENCY_CHECK]
    return rounds


def client_table(recording: Recording) -> str:
    """Phase x input -> what the client does."""
    survivors = recording.message(SurvivorList)
    proof = (
        recording.message(ConsistencyProof)
        if recording.signed
        else ConsistencyProof(recording.session_id, survivors.survivors, b"")
    )
    messages = {
        "PeerKeys": recording.message(PeerKeys),
        "PeerShares": recording.message(PeerShares),
        "SurvivorList": survivors,
        "another SurvivorList": SurvivorList(recording.session_id, (True, True, False)),
        "ConsistencyProof": proof,
        "of another session": recording.other_session(recording.message(PeerKeys)),
    }
    calls: dict[str, Callable[[Client], object]] = {
        "start()": lambda client: client.start(),
        "submit_input()": lambda client: client.submit_input(np.array(VECTORS[ALICE])),
    }
    calls |= {name: _receiving(message) for name, message in messages.items()}
    rows = [
        [phase.name, *(_client_cell(recording.client(phase), call) for call in calls.values())]
        for phase in ClientPhase
        if phase is not ClientPhase.SURVIVORS_SIGNED or recording.signed
    ]
    return _table(["phase", *calls], rows)


def _receiving(message: Any) -> Callable[[Client], object]:
    return lambda client: client.receive(message)


def _client_cell(client: Client, call: Callable[[Client], Any]) -> str:
    try:
        events = call(client)
    except RemoteProtocolError as error:
        return error.rule.name if client.phase is ClientPhase.ABORTED else f"{error.rule.name} -> {client.phase.name}"
    except LocalProtocolError:
        return "refused"
    sent = [type(event.message).__name__ for event in events if isinstance(event, Send) and event.to is SERVER]
    return f"{f'sends {sent[0]} ' if sent else ''}-> {client.phase.name}"


def server_table(recording: Recording) -> str:
    """Phase x input -> what the server does."""
    rounds = answers(recording.signed)
    messages = {
        "AdvertiseKeys": recording.message(AdvertiseKeys),
        "ShareKeys": recording.message(ShareKeys),
        "MaskedInput": recording.message(MaskedInput),
        "ConsistencyCheck": recording.message(ConsistencyCheck)
        if recording.signed
        else ConsistencyCheck(recording.session_id, bytes(64)),
        "UnmaskingShares": recording.message(UnmaskingShares),
    }
    strange = recording.other_session(messages["AdvertiseKeys"])
    header = ["phase", *messages, "second message", "of another session", "from a stranger"]
    calls = ["close_round(), all answered", "close_round(), none answered", "finish()"]
    rows = []
    for phase in ServerPhase:
        if phase is ServerPhase.CONSISTENCY_CHECK and not recording.signed:
            continue
        row = [_drop(recording.server(phase), ALICE, message) for message in messages.values()]
        server = recording.server(phase)
        expected = recording.message(rounds.get(phase, UnmaskingShares))
        server.receive(ALICE, expected)
        row.append(_drop(server, ALICE, expected) if phase in rounds else "as above")
        row.append(_drop(recording.server(phase), ALICE, strange))
        row.append(_drop(recording.server(phase), STRANGER, expected))
        full = recording.server(phase)
        if phase in rounds:
            for client_id in recording.ids:
                full.receive(client_id, recording.message(rounds[phase], client_id))
        row += [_closed(full), _closed(recording.server(phase)), _finished(recording, phase)]
        rows.append([phase.name, *row])
    return _table([*header, *calls], rows)


def _drop(server: Server, client_id: int, message: Any) -> str:
    phase = server.phase
    events = server.receive(client_id, message)
    for event in events:
        if isinstance(event, ClientDropped):
            return event.reason.name
    return "ignored" if phase in (ServerPhase.COMPLETED, ServerPhase.ABORTED) else "taken"


def _closed(server: Server) -> str:
    try:
        events = server.close_round()
    except LocalProtocolError:
        return "refused"
    for event in events:
        match event:
            case Send(message=message):
                return f"sends {type(message).__name__} -> {server.phase.name}"
            case UnmaskReady():
                return f"UnmaskReady -> {server.phase.name}"
            case Aborted(reason=reason):
                return f"{reason.name} -> {server.phase.name}"
    return f"-> {server.phase.name}"


def _finished(recording: Recording, phase: ServerPhase) -> str:
    server = recording.server(phase)
    try:
        server.finish(recording.done())
    except LocalProtocolError:
        return "refused"
    return f"Completed -> {server.phase.name}"


def _table(header: Cells, rows: list[Cells]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


_FIELDS: dict[type, tuple[int, tuple[str, ...]]] = {
    AdvertiseKeys: (1, ("channel public key", "mask public key", "identity key", "signature")),
    PeerKeys: (2, ("client ids", "channel public keys", "mask public keys", "identity keys", "signatures")),
    ShareKeys: (3, ("seed commitment", "encrypted shares")),
    PeerShares: (4, ("number of flags", "shared", "encrypted shares")),
    MaskedInput: (5, ("packed elements",)),
    SurvivorList: (6, ("number of flags", "survivors")),
    UnmaskingShares: (7, ("number of flags", "held", "shares")),
    ConsistencyCheck: (8, ("signature",)),
    ConsistencyProof: (9, ("number of flags", "consistent", "signatures", "common", "others")),
}
"""The type and the fields after the session id, in order, by the names of the document."""


def dump(message: Message, params: Parameters) -> str:
    """A message's bytes, an item a line: offset, bytes, meaning."""
    data = secagg.encode(message, params)
    code, fields = _FIELDS[type(message)]
    names = ["version", f"type: {type(message).__name__}", "session id", *fields]
    lines = [f"0000  {data[0]:02x}  array of {data[0] & 15}"]
    at = 1
    for name in names:
        head = data[at]
        if head < 0x80:
            lines.append(
                f"{at:04x}  {head:02x}  {name}: {head}" if ":" not in name else f"{at:04x}  {head:02x}  {name}"
            )
            at += 1
            continue
        width = 1 << (head - 0xC4)
        size = int.from_bytes(data[at + 1 : at + 1 + width], "big")
        lines.append(f"{at:04x}  {data[at : at + 1 + width].hex(' ', -1)}  {name}: {size} bytes")
        at += 1 + width
        lines += [f"{row:04x}    {data[row : min(row + 32, at + size)].hex()}" for row in range(at, at + size, 32)]
        at += size
    if at != len(data) or data[2] != code:
        raise RuntimeError(f"{type(message).__name__} is not as documented")
    return "\n".join(lines)


def dumps() -> str:
    """A dump of one message of each type, with what is needed to make the same bytes."""
    curious, malicious = (Recording(adversary, 2) for adversary in _MODES)
    blocks = [_ingredients(curious, malicious)]
    for kind in _FIELDS:
        signed = kind in (ConsistencyCheck, ConsistencyProof)
        recording = malicious if signed else curious
        source = "client 3 sends" if kind.__name__ in _CLIENT_SENDS else "client 3 gets"
        mode = ", in the malicious session" if signed else ""
        text = dump(recording.message(kind), recording.params)
        blocks.append(f"{kind.__name__}, as {source} it{mode}:\n\n```text\n{text}\n```\n")
    return "\n".join(blocks)


_CLIENT_SENDS = {"AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "UnmaskingShares"}


def _ingredients(recording: Recording, malicious: Recording) -> str:
    params = recording.params
    lines = [f"{name}: {getattr(params, name)}" for name in _NUMBERS]
    lines += [
        f"context: {CONTEXT.decode()!r}",
        f"nonce: {NONCE.decode()!r}",
        f"session id: {recording.session_id.hex()}",
    ]
    for client_id in recording.ids:
        entropy = seeded(f"client {client_id}")
        draws = [entropy(size) for size in (32, 16, 16, 16)]
        names = ("channel secret key", "mask key seed", "self-mask seed", "sharing seed")
        lines += [f"client {client_id}, {name}: {draw.hex()}" for name, draw in zip(names, draws, strict=True)]
        lines.append(f"client {client_id}, input: {list(VECTORS[client_id])}")
        lines.append(f"client {client_id}, identity secret key: {identity_of(client_id).to_bytes().hex()}")
    lines.append(f"session id of the malicious session: {malicious.session_id.hex()}")
    lines.append(f"sum: {recording.end.sum.tolist()}")
    return "```text\n" + "\n".join(lines) + "\n```\n"


_NUMBERS = ("num_clients", "threshold", "degree", "vector_length", "value_bits", "ring_bits", "modular")


def parts() -> dict[str, dict[str, str]]:
    """The generated parts, by document and by the name in their markers."""
    curious, malicious = (Recording(adversary, 3) for adversary in _MODES)
    return {
        "protocol.md": {
            "client states": client_table(curious),
            "client states, malicious mode": client_table(malicious),
            "server states": server_table(curious),
            "server states, malicious mode": server_table(malicious),
        },
        "wire-format.md": {"dumps": dumps()},
    }


def replaced(text: str, generated: dict[str, str]) -> str:
    """The document with its generated parts as they are to be."""
    for name, part in generated.items():
        begin = f"<!-- generated: {name} -->\n"
        if text.count(begin) != 1:
            raise ValueError(f"{text.count(begin)} places for the generated part '{name}', not one")
        before, _, rest = text.partition(begin)
        _, end, after = rest.partition("<!-- end -->\n")
        text = f"{before}{begin}\n{part}\n{end}{after}"
    return text


def main() -> None:
    """Write the parts into the documents."""
    for name, generated in parts().items():
        path = DOCS / name
        old = path.read_text(encoding="utf-8")
        new = replaced(old, generated)
        if new != old:
            path.write_text(new, encoding="utf-8")
        sys.stdout.write(f"{name}: {'written' if new != old else 'up to date'}\n")


if __name__ == "__main__":
    main()
