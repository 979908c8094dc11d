"""A client's state as bytes, for hosts that keep nothing in memory between two messages.

The bytes hold the client's secrets in the clear: the host stores them as it stores a private key, and hands back
exactly what it got.  The checksum finds accidents, not attackers.
"""

import dataclasses
from typing import Any

import msgpack
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from secagg._client_states import PHASES, ClientPhase, Setup, State
from secagg.errors import LocalProtocolError, PlanError
from secagg.params import Adversary, Parameters
from secagg.primitives.labels import PROTOCOL_VERSION
from secagg.session import SESSION_ID_BYTES

_MAGIC = b"secagg client"
_CHECKSUM_BYTES = 16

_STATES = {phase.name: state for state, phase in PHASES.items()}


def dump(state: State) -> bytes:
    """The state with its setup, as bytes."""
    setup, params = state.setup, state.setup.params
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "setup"}
    body: bytes = msgpack.packb(
        [
            PROTOCOL_VERSION,
            state.phase.name,
            {**dataclasses.asdict(params), "adversary": params.adversary.value},
            setup.client_id,
            setup.session_id,
            values,
        ]
    )
    return _MAGIC + _checksum(body) + body


def load(blob: bytes | bytearray | memoryview) -> State:
    """The state in ``blob``; LocalProtocolError if it is not what `dump` gave."""
    header = len(_MAGIC) + _CHECKSUM_BYTES
    if not isinstance(blob, bytes | bytearray | memoryview):
        raise LocalProtocolError(f"a suspended client is bytes, not {type(blob).__name__}")
    blob = bytes(blob)
    if blob[: len(_MAGIC)] != _MAGIC:
        raise LocalProtocolError("these bytes are no suspended client")
    body = blob[header:]
    if blob[len(_MAGIC) : header] != _checksum(body):
        raise LocalProtocolError("the suspended client is damaged: its checksum does not match")
    # Unpacked in a function of its own, whose frame with the secrets is gone when an error is raised here.
    state = _unpack(body)
    if isinstance(state, State):
        return state
    if state is not None:
        raise LocalProtocolError(f"this client was suspended by protocol version {state}, not {PROTOCOL_VERSION}")
    raise LocalProtocolError("these bytes are no suspended client of this version")


def _unpack(body: bytes) -> State | int | None:
    """The state; or the version, if it is another one; or None if it is nothing of the kind."""
    try:
        version, phase, params, client_id, session_id, values = msgpack.unpackb(body, use_list=False)
        if type(version) is not int or version != PROTOCOL_VERSION:
            return version if type(version) is int else None
        if type(client_id) is int and type(session_id) is bytes and len(session_id) == SESSION_ID_BYTES:
            setup = Setup(_load_params(params), client_id, session_id)
            if all(isinstance(value, bytes | tuple) for value in values.values()):
                return _STATES[phase](setup, **values)
    except (ValueError, TypeError, KeyError, AttributeError, PlanError, msgpack.UnpackException):
        pass
    return None


def _load_params(values: dict[str, Any]) -> Parameters:
    return Parameters(**{**values, "adversary": Adversary(values["adversary"])})


def _checksum(body: bytes) -> bytes:
    hasher = Hash(SHA256())
    hasher.update(body)
    return hasher.finalize()[:_CHECKSUM_BYTES]


SUSPENDABLE = frozenset(PHASES.values()) - {ClientPhase.ABORTED, ClientPhase.SUSPENDED}
