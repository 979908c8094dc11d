"""Whole sessions, recorded message by message, in lockstep: one round's messages down, then up, then the deadline."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secagg import (
    SERVER,
    Client,
    ClientDropped,
    ClientMessage,
    Completed,
    Identity,
    InputRequested,
    Parameters,
    PinnedKeys,
    Round,
    Send,
    Server,
    ServerMessage,
    SharesDisputed,
    UnmaskJob,
    UnmaskReady,
    decode_client_message,
    decode_server_message,
    encode,
    rounds_of,
)
from secagg.events import ClientEvent, ServerEvent

from .entropy import Stream
from .layout import parameters_of

Deviation = Callable[[ClientMessage], ClientMessage]

DRAWS = ("channel_secret_key", "mask_key_seed", "self_mask_seed", "sharing_seed", "identity_secret_key")
"""What a client draws at its start, in this order; the last in semi-malicious mode only."""


@dataclass(frozen=True)
class Script:
    """What happens in a session.

    ``vanishes`` gives the round from which on a client is not there; ``deviations`` what a client sends instead of
    its own message in a round, and a word about it.
    """

    name: str
    params: Parameters
    client_ids: tuple[int, ...]
    nonce: bytes = b""
    context: bytes = b""
    vanishes: dict[int, Round] = field(default_factory=dict)
    deviations: dict[tuple[int, Round], tuple[Deviation, str]] = field(default_factory=dict)


def identity_of(client_id: int) -> Identity:
    """A client's identity, one for all files."""
    return Identity(Stream(f"identity {client_id}")(32))


def record(script: Script) -> dict[str, Any]:
    """The session as a dict of plain values and bytes."""
    return _Recording(script).run()


class _Recording:
    def __init__(self, script: Script) -> None:
        params = script.params
        self._script = script
        self._rounds = rounds_of(params)
        self._steps: list[dict[str, Any]] = []
        self._entropy = {client_id: Stream(f"{script.name}/client {client_id}") for client_id in script.client_ids}
        self._server_entropy = Stream(f"{script.name}/server")
        self._graph_entropy = b""
        self._inputs = {
            client_id: Stream(f"{script.name}/input {client_id}").integers(params.vector_length, params.value_bits)
            for client_id in script.client_ids
        }
        self._disputed: SharesDisputed | None = None
        self._masked_sum = [0] * params.vector_length
        session: dict[str, Any] = {"nonce": script.nonce, "context": script.context}
        if params.has_identities:
            session["directory"] = PinnedKeys({i: identity_of(i).public_key for i in script.client_ids})
        self._server = Server(params, script.client_ids, entropy=self._server_entropy, **session)
        self._clients = {}
        for client_id in script.client_ids:
            own: dict[str, Any] = {"identity": identity_of(client_id)} if params.has_identities else {}
            self._clients[client_id] = Client(params, client_id, entropy=self._entropy[client_id], **session, **own)

    def run(self) -> dict[str, Any]:
        first = self._rounds[0]
        answers = {i: client.start() for i, client in self._clients.items() if self._present(i, first)}
        for round_, following in zip(self._rounds, (*self._rounds[1:], None), strict=True):
            for client_id, events in answers.items():
                self._up(client_id, events, round_)
            closing = self._close(round_)
            if following is not None:
                answers = self._down(closing, following)
        (job,) = [event.job for event in closing if isinstance(event, UnmaskReady)]
        (completed,) = self._server.finish(job.run())
        assert isinstance(completed, Completed)
        return self._session(job, completed)

    def _present(self, client_id: int, round_: Round) -> bool:
        last = self._script.vanishes.get(client_id)
        return last is None or self._rounds.index(round_) < self._rounds.index(last)

    def _step(self, **step: Any) -> None:
        self._steps.append({"step": len(self._steps), **step})

    def _close(self, round_: Round) -> tuple[ServerEvent, ...]:
        draws = len(self._server_entropy.draws)
        events = self._server.close_round()
        if round_ is Round.ADVERTISE_KEYS:
            self._graph_entropy = b"".join(self._server_entropy.draws[draws:])
        dropped = [
            {"client_id": event.client_id, "reason": event.reason.name}
            for event in events
            if isinstance(event, ClientDropped)
        ]
        self._step(kind="close_round", round=round_.value, dropped=dropped)
        for event in events:
            if isinstance(event, SharesDisputed):
                self._disputed = event
        return events

    def _down(self, events: tuple[ServerEvent, ...], round_: Round) -> dict[int, tuple[ClientEvent, ...]]:
        """The server's messages that open a round; returns what the clients do with them."""
        answers = {}
        params = self._script.params
        for event in events:
            if not isinstance(event, Send) or event.to is SERVER:
                continue
            data = encode(event.message, params)
            present = self._present(event.to, round_)
            step = self._message_step("server", event.to, round_, event.message, data)
            if present:
                answers[event.to] = self._clients[event.to].receive(decode_server_message(data, params))
                for asked in answers[event.to]:
                    if isinstance(asked, InputRequested):
                        step["rejected_shares"] = list(asked.rejected_shares)
            else:
                step["delivered"] = False
            self._step(**step)
        return answers

    def _up(self, client_id: int, events: tuple[ClientEvent, ...], round_: Round) -> None:
        params = self._script.params
        for event in events:
            if isinstance(event, InputRequested):
                vector = np.array(self._inputs[client_id], dtype=np.uint64)
                self._up(client_id, self._clients[client_id].submit_input(vector), round_)
                continue
            data = encode(event.message, params)
            message = decode_client_message(data, params)
            step = self._message_step(client_id, "server", round_, event.message, data)
            deviation = self._script.deviations.get((client_id, round_))
            if deviation is not None:
                change, why = deviation
                message = change(message)
                step |= {"message": encode(message, params), "honest_message": data, "deviation": why}
            self._step(**step)
            if hasattr(message, "masked_input"):
                self._masked_sum = [
                    (total + int(element)) % params.modulus
                    for total, element in zip(self._masked_sum, message.masked_input, strict=True)
                ]
            if self._server.receive(client_id, message):
                raise AssertionError(f"the server refused client {client_id}")

    def _message_step(
        self, source: int | str, target: int | str, round_: Round, message: ClientMessage | ServerMessage, data: bytes
    ) -> dict[str, Any]:
        return {
            "kind": "message",
            "round": round_.value,
            "type": type(message).__name__,
            "from": source,
            "to": target,
            "message": data,
        }

    def _session(self, job: UnmaskJob, completed: Completed) -> dict[str, Any]:
        script, params = self._script, self._script.params
        disputes = self._disputed.disputes if self._disputed else ()
        return {
            "name": script.name,
            "parameters": parameters_of(params),
            "nonce": script.nonce,
            "context": script.context,
            "session_id": self._server.session_id,
            "clients": [self._client(client_id) for client_id in script.client_ids],
            "graph_entropy": self._graph_entropy,
            "steps": self._steps,
            "outcome": {
                "survivors": list(completed.included),
                "disputes": [{"owner": d.owner, "holder": d.holder, "fault": d.fault.name} for d in disputes],
                "culprits": list(completed.culprits),
                "self_mask_seeds": [{"client_id": i, "seed": seed} for i, seed in job.self_mask_seeds],
                "mask_key_seeds": [{"client_id": key.client_id, "seed": key.seed} for key in job.recovered],
                "masked_sum": self._masked_sum,
                "sum": completed.sum.tolist(),
            },
        }

    def _client(self, client_id: int) -> dict[str, Any]:
        draws = self._entropy[client_id].draws
        vanishes = self._script.vanishes.get(client_id)
        client: dict[str, Any] = {"client_id": client_id, "vanishes": vanishes.value if vanishes else None}
        if self._script.params.has_identities:
            identity = identity_of(client_id)
            client |= {"identity_secret_key": identity.to_bytes(), "identity_key": identity.public_key}
        client["entropy"] = dict(zip(DRAWS, draws, strict=False)) if draws else None
        client["input"] = self._inputs[client_id]
        return client
