"""Whole sessions, recorded message by message, in lockstep: one round's messages down, then up, then the deadline."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secagg import (
    ClientMessage,
    Completed,
    Identity,
    InputRequested,
    Parameters,
    PinnedKeys,
    Round,
    ServerMessage,
    encode,
    rounds_of,
)
from secagg.events import ClientEvent
from secagg.messages import PeerKeys, PeerShares, SurvivorList
from tests.support.sessions import Cohort

from .entropy import Stream
from .layout import parameters_of

Deviation = Callable[[ClientMessage], ClientMessage]


def draws_of(params: Parameters) -> tuple[str, ...]:
    """Return the names of the draws of a client at its start, in order."""
    names = ["channel_secret_key", "mask_key_seed", "self_mask_seed", "sharing_seed"]
    if params.is_signed and not params.has_identities:
        names.append("identity_secret_key")
    if params.noise_components:
        names.append("noise_seed")
    return tuple(names)


@dataclass(frozen=True)
class Script:
    """The events of a session.

    ``vanishes`` gives the round from which a client is absent; ``deviations`` the message that a client sends instead
    of its own in a round, with a short description.
    """

    name: str
    params: Parameters
    client_ids: tuple[int, ...]
    nonce: bytes = b""
    context: bytes = b""
    vanishes: dict[int, Round] = field(default_factory=dict)
    deviations: dict[tuple[int, Round], tuple[Deviation, str]] = field(default_factory=dict)


_ORDER = tuple(Round)


def identity_of(client_id: int) -> Identity:
    """Return a client's identity, the same in all files."""
    return Identity(Stream(f"identity {client_id}")(32))


def record(script: Script) -> dict[str, Any]:
    """Return the session as a dict of plain values and bytes."""
    return _Recording(script).record()


class _Recording(Cohort):
    def __init__(self, script: Script) -> None:
        params = script.params
        self._script = script
        self._rounds = rounds_of(params)
        self._steps: list[dict[str, Any]] = []
        self._graph_entropy = b""
        self._answers: dict[int, ClientMessage] = {}
        self._rejected: list[int] | None = None
        self._masked_inputs: dict[int, list[int]] = {}
        inputs = {
            client_id: np.array(
                Stream(f"{script.name}/input {client_id}").integers(params.vector_length, params.value_bits),
                dtype=np.uint64,
            )
            for client_id in script.client_ids
        }
        missing_from = {client_id: _ORDER.index(round_) for client_id, round_ in script.vanishes.items()}
        super().__init__(
            params,
            inputs,
            missing_from,
            uplink=self._answers.__setitem__,
            context=script.context,
            nonce=script.nonce,
            entropy_seed=script.name,
        )

    def source(self, name: int | str) -> Any:
        """Return a machine's stream, from its beginning."""
        stream = Stream(f"{self._script.name}/{name if name == 'server' else f'client {name}'}")
        if name == "server":
            self._server_entropy = stream
        return stream

    @property
    def trust(self) -> dict[str, Any]:
        """Return a directory that knows all clients' identities."""
        if not self.params.has_identities:
            return {}
        return {"directory": PinnedKeys({client_id: identity_of(client_id).public_key for client_id in self.inputs})}

    def host_of(self, client_id: int) -> dict[str, Any]:
        """Return the arguments from the client's host."""
        return {**self.trust, "identity": identity_of(client_id)} if self.params.has_identities else {}

    def record(self) -> dict[str, Any]:
        self.start()
        for round_, following in zip(self._rounds, (*self._rounds[1:], None), strict=True):
            for client_id, message in self._answers.items():
                self._up(client_id, message, round_)
            self._answers.clear()
            letters = self._close(round_)
            if following is not None:
                self._down(letters, following)
        return self._session()

    def _step(self, **step: Any) -> None:
        self._steps.append({"step": len(self._steps), **step})

    def _close(self, round_: Round) -> dict[int, ServerMessage]:
        draws, known = len(self._server_entropy.draws), set(self.dropped)
        letters: dict[int, ServerMessage] = self.open()
        if round_ is Round.ADVERTISE_KEYS:
            self._graph_entropy = b"".join(self._server_entropy.draws[draws:])
        dropped = [
            {"client_id": client_id, "reason": drop.reason.name}
            for client_id, drop in self.dropped.items()
            if client_id not in known
        ]
        self._step(kind="close_round", round=round_.value, dropped=dropped)
        return letters

    def _down(self, letters: dict[int, ServerMessage], round_: Round) -> None:
        """Record the server's messages that open a round, and deliver them to the present clients."""
        for client_id, message in letters.items():
            step = self._message_step("server", client_id, round_, message)
            self._rejected = None
            if self._stays(client_id, _ORDER.index(round_)):
                self.tell(client_id, message)
                if self._rejected is not None:
                    step["rejected_shares"] = self._rejected
            else:
                step["delivered"] = False
            self._step(**step)

    def _from_client(self, client_id: int, events: Iterable[ClientEvent]) -> list[Any]:
        events = tuple(events)
        for event in events:
            if isinstance(event, InputRequested):
                self._rejected = list(event.rejected_shares)
        return super()._from_client(client_id, events)

    def _up(self, client_id: int, message: ClientMessage, round_: Round) -> None:
        step = self._message_step(client_id, "server", round_, message)
        if deviation := self._script.deviations.get((client_id, round_)):
            change, why = deviation
            message = change(message)
            step |= {
                "message": encode(message, self.params),
                "honest_message": step["message"],
                "deviation": why,
            }
        self._step(**step)
        if hasattr(message, "masked_input"):
            self._masked_inputs[client_id] = [int(element) for element in message.masked_input]
        self.forward(client_id, message)
        assert client_id not in self.dropped, "otherwise the script is wrong"

    def _message_step(
        self, source: int | str, target: int | str, round_: Round, message: ClientMessage | ServerMessage
    ) -> dict[str, Any]:
        return {
            "kind": "message",
            "round": round_.value,
            "type": type(message).__name__,
            "from": source,
            "to": target,
            "message": encode(message, self.params),
        }

    def _session(self) -> dict[str, Any]:
        script, params, job, completed = self._script, self.params, self.job, self.end
        assert job is not None
        assert isinstance(completed, Completed)
        disputes = self.disputed.disputes if self.disputed else ()
        return {
            "name": script.name,
            "parameters": parameters_of(params),
            "nonce": script.nonce,
            "context": script.context,
            "session_id": self.session_id,
            "clients": [self._described(client_id) for client_id in script.client_ids],
            "graph_entropy": self._graph_entropy,
            "steps": self._steps,
            "outcome": {
                "survivors": list(completed.included),
                "disputes": [{"owner": d.owner, "holder": d.holder, "fault": d.fault.name} for d in disputes],
                "culprits": list(completed.culprits),
                "self_mask_seeds": [{"client_id": i, "seed": seed} for i, seed in job.self_mask_seeds],
                "mask_key_seeds": [{"client_id": i, "seed": self.entropy[i].draws[1]} for i in self._vanished()],
                "partial_sums": [self._partial_sum(completed.included[i::2]) for i in range(2)],
                "masked_sum": self._sum_of(completed.included),
                "sum": completed.sum.tolist(),
                "noise_keys": [
                    {"component": component, "keys": [{"client_id": i, "key": key} for i, key in sorted(keys.items())]}
                    for component, keys in sorted(completed.noise_keys.items())
                ],
            },
        }

    def _vanished(self) -> list[int]:
        """Return the clients that shared their keys and are in some survivor's list as vanished."""
        return sorted(
            {
                peer_id
                for client_id, told in self.told[SurvivorList].items()
                for peer_id, shared, survives in zip(
                    self.told[PeerKeys][client_id].client_ids,
                    self.told[PeerShares][client_id].shared,
                    told.survivors,
                    strict=True,
                )
                if shared and not survives
            }
        )

    def _partial_sum(self, client_ids: tuple[int, ...]) -> dict[str, Any]:
        return {"client_ids": list(client_ids), "sum": self._sum_of(client_ids)}

    def _sum_of(self, client_ids: tuple[int, ...]) -> list[int]:
        columns = zip(*(self._masked_inputs[client_id] for client_id in client_ids), strict=True)
        return [sum(column) % self.params.modulus for column in columns]

    def _described(self, client_id: int) -> dict[str, Any]:
        draws = self.entropy[client_id].draws
        vanishes = self._script.vanishes.get(client_id)
        client: dict[str, Any] = {"client_id": client_id, "vanishes": vanishes.value if vanishes else None}
        if self._script.params.has_identities:
            identity = identity_of(client_id)
            client |= {"identity_secret_key": identity.to_bytes(), "identity_key": identity.public_key}
        client["entropy"] = dict(zip(draws_of(self.params), draws, strict=True)) if draws else None
        client["input"] = self.inputs[client_id].tolist()
        return client
