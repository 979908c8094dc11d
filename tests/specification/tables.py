"""The state tables: a machine in each phase, and each message and call tried on it."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from secagg import (
    SERVER,
    Aborted,
    Adversary,
    Client,
    ClientDropped,
    ClientPhase,
    LocalProtocolError,
    RemoteProtocolError,
    Rule,
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
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests.support.sessions import AWAITED

from .recording import ALICE, STRANGER, VECTORS, Recording, of_another_session

Cells: TypeAlias = list[str]
Table: TypeAlias = tuple[Cells, list[Cells]]
"""A header, and rows that begin with the phase."""


def client_states(*adversaries: str) -> str:
    """Return the block with the client's table in the modes of these adversaries; the signed modes must agree."""
    return _block(client_table, adversaries)


def server_states(*adversaries: str) -> str:
    """Return the block with the server's table in the modes of these adversaries; the signed modes must agree."""
    return _block(server_table, adversaries)


def _block(table: Callable[[Recording], Table], adversaries: tuple[str, ...]) -> str:
    recordings = [_recording(Adversary(adversary)) for adversary in adversaries]
    unsigned, (header, signed) = (
        _equal([table(recording) for recording in recordings if recording.params.is_signed is is_signed])
        for is_signed in (False, True)
    )
    other_rows = {row[0]: row for row in unsigned[1]}
    rows = []
    for row in signed:
        phase, *cells = row
        if phase in other_rows:
            others = other_rows[phase][1:]
            cells = [_cell(other, cell) for other, cell in zip(others, cells, strict=True)]
        else:
            phase, cells = f"{phase} (signed modes)", [_cell(cell, cell) for cell in cells]
        rows.append([phase, *cells])
    return f"\n{_table(header, rows)}\n"


def _equal(tables: list[Table]) -> Table:
    first, *others = tables
    assert all(other == first for other in others)
    return first


def _cell(unsigned: str, signed: str) -> str:
    """Return the cell for all modes; a cell is empty where the message is not expected."""
    text = unsigned if unsigned == signed else f"{unsigned}; signed modes: {signed}"
    return "" if text == Rule.UNEXPECTED_MESSAGE.name else text


@cache
def _recording(adversary: Adversary) -> Recording:
    return Recording(adversary, 3)


def client_table(recording: Recording) -> Table:
    """Return what the client does in each phase with each input."""
    survivors = recording.message(SurvivorList)
    proof = (
        recording.message(ConsistencyProof)
        if recording.params.is_signed
        else ConsistencyProof(recording.session_id, survivors.survivors, b"")
    )
    messages = {
        "PeerKeys": recording.message(PeerKeys),
        "PeerShares": recording.message(PeerShares),
        "SurvivorList": survivors,
        "another SurvivorList": SurvivorList(recording.session_id, (True, True, False)),
        "ConsistencyProof": proof,
        "of another session": of_another_session(recording.message(PeerKeys)),
    }
    calls: dict[str, Callable[[Client], object]] = {
        "start()": lambda client: client.start(),
        "submit_input()": lambda client: client.submit_input(np.array(VECTORS[ALICE])),
    }
    calls |= {name: _receiving(message) for name, message in messages.items()}
    rows = [
        [phase.name, *(_client_cell(recording.client_in(phase, ALICE), call) for call in calls.values())]
        for phase in ClientPhase
        if phase is not ClientPhase.SURVIVORS_SIGNED or recording.params.is_signed
    ]
    return ["phase", *calls], rows


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


def server_table(recording: Recording) -> Table:
    """Return what the server does in each phase with each input."""
    messages = {
        "AdvertiseKeys": recording.message(AdvertiseKeys),
        "ShareKeys": recording.message(ShareKeys),
        "MaskedInput": recording.message(MaskedInput),
        "ConsistencyCheck": recording.message(ConsistencyCheck)
        if recording.params.is_signed
        else ConsistencyCheck(recording.session_id, bytes(64)),
        "UnmaskingShares": recording.message(UnmaskingShares),
    }
    strange = of_another_session(messages["AdvertiseKeys"])
    header = ["phase", *messages, "second message", "of another session", "from a stranger"]
    calls = ["close_round(), all answered", "close_round(), none answered", "receive_partial()", "finish()"]
    rows = []
    for phase in ServerPhase:
        if phase is ServerPhase.CONSISTENCY_CHECK and not recording.params.is_signed:
            continue
        row = [_received(recording.server_in(phase), ALICE, message) for message in messages.values()]
        server = recording.server_in(phase)
        expected = recording.message(AWAITED.get(phase, UnmaskingShares))
        server.receive(ALICE, expected)
        row.append(_received(server, ALICE, expected) if phase in AWAITED else "as above")
        row.append(_received(recording.server_in(phase), ALICE, strange))
        row.append(_received(recording.server_in(phase), STRANGER, expected))
        full = recording.server_in(phase)
        if phase in AWAITED:
            for client_id in recording.inputs:
                full.receive(client_id, recording.message(AWAITED[phase], client_id))
        row += [_closed(full), _closed(recording.server_in(phase))]
        row += [_took_partial(recording, phase), _finished(recording, phase)]
        rows.append([phase.name, *row])
    return [*header, *calls], rows


def _received(server: Server, client_id: int, message: Any) -> str:
    phase = server.phase
    for event in server.receive(client_id, message):
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


def _took_partial(recording: Recording, phase: ServerPhase) -> str:
    try:
        recording.server_in(phase).receive_partial((ALICE,), recording.message(MaskedInput).masked_input)
    except LocalProtocolError:
        return "refused"
    return "taken"


def _finished(recording: Recording, phase: ServerPhase) -> str:
    server = recording.server_in(phase)
    try:
        server.finish(recording.done())
    except LocalProtocolError:
        return "refused"
    return f"Completed -> {server.phase.name}"


def _table(header: Cells, rows: list[Cells]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
