"""Turn a client's state into bytes and back, for hosts that keep nothing in memory between two messages.

The bytes hold the client's secrets in the clear: the host must store them like a private key and return them unchanged.
The checksum finds accidents, not attackers.
"""

import dataclasses
from dataclasses import replace

import msgpack

from secagg._client.neighborhood import Neighborhood
from secagg._client.phases import ClientPhase
from secagg._client.rules import ClientSetup
from secagg._client.states import PHASES, Listed, State
from secagg.errors import LocalProtocolError, SecAggError
from secagg.events import Round
from secagg.identity import Identity, KeyDirectory, check_directory, check_identity
from secagg.params import ClientId, Parameters
from secagg.primitives.digest import sha256
from secagg.primitives.labels import PROTOCOL_VERSION
from secagg.session import SESSION_ID_BYTES
from secagg.transcript import TranscriptEntry, TranscriptKind

_MAGIC = b"secagg client"
_CHECKSUM_BYTES = 16

_STATES = {phase.name: state for state, phase in PHASES.items()}


def dump(state: State, transcript: tuple[TranscriptEntry, ...] = ()) -> bytes:
    """Return the state with its setup and the client's transcript, as bytes."""
    setup, params = state.setup, state.setup.params
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name != "setup"}
    if isinstance(state, Listed):
        values["neighborhood"] = dataclasses.astuple(state.neighborhood)
    body: bytes = msgpack.packb(
        [
            PROTOCOL_VERSION,
            state.phase.name,
            params.to_bytes(),
            setup.client_id,
            setup.session_id,
            *_identity_fields(setup),
            values,
            [
                (entry.round.value, entry.what.value, entry.subject, entry.clients, entry.digest, entry.detail)
                for entry in transcript
            ],
        ]
    )
    return _MAGIC + _checksum(body) + body


def load(
    blob: bytes | bytearray | memoryview, identity: Identity | None = None, directory: KeyDirectory | None = None
) -> tuple[State, list[TranscriptEntry]]:
    """Return the arguments of `dump`; LocalProtocolError if ``blob`` is not from it or has another identity."""
    header = len(_MAGIC) + _CHECKSUM_BYTES
    if not isinstance(blob, bytes | bytearray | memoryview):
        raise LocalProtocolError(f"a suspended client must be bytes, not {type(blob).__name__}")
    blob = bytes(blob)
    if blob[: len(_MAGIC)] != _MAGIC:
        raise LocalProtocolError("these bytes are not a suspended client")
    body = blob[header:]
    if blob[len(_MAGIC) : header] != _checksum(body):
        raise LocalProtocolError("the suspended client is damaged: its checksum does not match")
    # A separate function unpacks, so that no frame with secrets is alive when an error is raised here.
    found = _unpack(body)
    if isinstance(found, int):
        raise LocalProtocolError(f"this client was suspended by protocol version {found}, not {PROTOCOL_VERSION}")
    if found is None:
        raise LocalProtocolError("these bytes are not a suspended client of this version")
    state, identity_key, transcript = found
    if not identity_key:
        # In semi-malicious mode the identity belongs to the session and is part of the state.
        if _lacks_identity(state):
            raise LocalProtocolError("these bytes are not a suspended client of this version")
        return state, transcript
    params = state.setup.params
    del state
    del found
    check_identity(params, identity)
    check_directory(params, directory)
    if identity is None or identity.public_key != identity_key:
        raise LocalProtocolError("this client was suspended with another identity")
    return _unpack_with(body, identity, directory), transcript


def _unpack_with(body: bytes, identity: Identity, directory: KeyDirectory | None) -> State:
    """Return the state of a body that was unpacked before, with its identity."""
    found = _unpack(body)
    assert isinstance(found, tuple)  # noqa: S101 - the caller saw it
    return replace(found[0], setup=replace(found[0].setup, identity=identity, directory=directory))


def _unpack(body: bytes) -> tuple[State, bytes, list[TranscriptEntry]] | int | None:
    """Return state, identity key and transcript; the number of another version; or None if the body is malformed."""
    try:
        version, phase, params, client_id, session_id, identity_key, own_identity, values, entries = msgpack.unpackb(
            body, use_list=False
        )
        if type(version) is not int or version != PROTOCOL_VERSION:
            return version if type(version) is int else None
        typed = type(client_id) is int and type(session_id) is bytes and type(identity_key) is bytes
        if typed and len(session_id) == SESSION_ID_BYTES:
            identity = Identity(own_identity) if own_identity else None
            setup = ClientSetup(Parameters.from_bytes(params), client_id, session_id, identity)
            if all(isinstance(value, bytes | tuple) for value in values.values()):
                if issubclass(_STATES[phase], Listed):
                    values["neighborhood"] = Neighborhood(*values["neighborhood"])
                return _STATES[phase](setup, **values), identity_key, [_entry(*entry) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError, SecAggError, msgpack.UnpackException):
        pass
    return None


def _identity_fields(setup: ClientSetup) -> tuple[bytes, bytes]:
    """Return the public key of the host's identity, and the secret key of an identity drawn for the session."""
    if setup.identity is None:
        return b"", b""
    return (setup.identity.public_key, b"") if setup.params.has_identities else (b"", setup.identity.to_bytes())


def _lacks_identity(state: State) -> bool:
    """Tell whether this client still has to sign and has no identity: it would continue without checks."""
    params = state.setup.params
    if state.phase is ClientPhase.FINISHED or state.setup.identity is not None:
        return False
    return params.has_identities or (params.is_signed and state.phase is not ClientPhase.CREATED)


def _entry(
    round_: str, what: str, subject: str, clients: tuple[ClientId, ...], digest: bytes, detail: str
) -> TranscriptEntry:
    return TranscriptEntry(Round(round_), TranscriptKind(what), subject, clients, digest, detail)


def _checksum(body: bytes) -> bytes:
    return sha256(body)[:_CHECKSUM_BYTES]
