"""Machines in their state at some step of a recorded session."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from secagg import (
    Client,
    ClientMessage,
    Identity,
    InputRequested,
    PinnedKeys,
    Server,
    decode_client_message,
    decode_server_message,
)

from .entropy import Stream
from .layout import parameters_from

SessionFile: TypeAlias = dict[str, Any]
"""A session file's content."""


def client_before(session: SessionFile, client_id: int, step: int) -> Client:
    """Return a client that has received all steps below ``step``."""
    params = parameters_from(session["parameters"])
    (recorded,) = [client for client in session["clients"] if client["client_id"] == client_id]
    own: dict[str, Any] = {}
    if params.has_identities:
        own["identity"] = Identity(bytes.fromhex(recorded["identity_secret_key"]))
    machine = Client(
        params,
        client_id,
        **_session_of(session),
        **own,
        entropy=_source(bytes.fromhex("".join(recorded["entropy"].values()))),
    )
    machine.start()
    for entry in session["steps"][:step]:
        if entry["kind"] == "message" and entry["to"] == client_id and entry.get("delivered", True):
            for event in machine.receive(decode_server_message(bytes.fromhex(entry["message"]), params)):
                if isinstance(event, InputRequested):
                    machine.submit_input(np.array(recorded["input"], dtype=np.uint64))
    return machine


def server_before(session: SessionFile, step: int) -> Server:
    """Return the server after all steps below ``step``."""
    params = parameters_from(session["parameters"])
    ids = [client["client_id"] for client in session["clients"]]
    source = _source(bytes.fromhex(session["graph_entropy"]))
    machine = Server(params, ids, **_session_of(session), entropy=source)
    for entry in session["steps"][:step]:
        if entry["kind"] == "close_round":
            machine.close_round()
        elif entry["to"] == "server":
            machine.receive(entry["from"], decode_client_message(bytes.fromhex(entry["message"]), params))
    return machine


def step_of(session: SessionFile, kind: str, source: int | str, target: int | str) -> dict[str, Any]:
    """Return the step with a message of a type from one to another."""
    wanted = {"kind": "message", "type": kind, "from": source, "to": target}
    (found,) = [step for step in session["steps"] if wanted.items() <= step.items()]
    entry: dict[str, Any] = found
    return entry


def message_of(session: SessionFile, step: dict[str, Any]) -> Any:
    """Return the message of a step."""
    params = parameters_from(session["parameters"])
    decode: Callable[..., ClientMessage | Any] = (
        decode_client_message if step["to"] == "server" else decode_server_message
    )
    return decode(bytes.fromhex(step["message"]), params)


def _session_of(session: SessionFile) -> dict[str, Any]:
    arguments: dict[str, Any] = {name: bytes.fromhex(session[name]) for name in ("nonce", "context")}
    if parameters_from(session["parameters"]).has_identities:
        keys = {client["client_id"]: bytes.fromhex(client["identity_key"]) for client in session["clients"]}
        arguments["directory"] = PinnedKeys(keys)
    return arguments


def _source(first: bytes) -> Callable[[int], bytes]:
    """Return the draws, followed by a stream for draws that change no message."""
    rest = Stream("replay")
    left = first

    def draw(size: int) -> bytes:
        nonlocal left
        if not left:
            return rest(size)
        drawn, left = left[:size], left[size:]
        return drawn

    return draw
