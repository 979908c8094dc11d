"""Turn messages into bytes and back: msgpack, strict and bounded by the session's parameters.

A message is the msgpack array ``[version, type, session id, fields...]``.  Every value has exactly one encoding
(the shortest), so equal messages are equal bytes.  Decoding reads the few msgpack forms that occur and
uses no general parser: it allocates nothing from a length that the sender claims, does not copy large vectors, and
cannot accept bytes that are not canonical.
"""

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack
import numpy as np
import numpy.typing as npt

from secagg import noise
from secagg.algebra import packing, ring
from secagg.errors import CodecError, LocalProtocolError
from secagg.message_reader import MessageReader
from secagg.messages import (
    AdvertiseKeys,
    ClientMessage,
    ConsistencyCheck,
    ConsistencyProof,
    Flags,
    MaskedInput,
    Message,
    MessageType,
    PeerKeys,
    PeerShares,
    ServerMessage,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import Parameters
from secagg.primitives import prg, signing
from secagg.primitives.agreement import KEY_BYTES
from secagg.primitives.digest import DIGEST_BYTES
from secagg.primitives.labels import PROTOCOL_VERSION
from secagg.primitives.signing import SIGNATURE_BYTES
from secagg.session import SESSION_ID_BYTES
from secagg.sharing import (
    ENCRYPTED_SHARES_BYTES,
    SHARE_BYTES,
    InvalidSharesError,
    shares_from_bytes,
    shares_to_bytes,
)

_ID_BYTES = 4
_ID_DTYPE = np.dtype(">u4")

# Array header, version, type, session id, and the headers of at most six fields.
_ENVELOPE_BYTES = 64 + SESSION_ID_BYTES

_M = TypeVar("_M")


def max_message_bytes(params: Parameters, kind: type[Message] | None = None) -> int:
    """Return the largest size of a message of such a session, in bytes; a transport may refuse longer ones.

    Args:
        params: the session's.
        kind: the message's type, where that is known; by default any.
    """
    _check_params(params)
    peers = params.degree + 1
    flag_bytes = peers // 8 + 1
    signed = _identity_bytes(params) + _signature_bytes(params)
    shares = peers * ENCRYPTED_SHARES_BYTES + DIGEST_BYTES + flag_bytes
    # A peer's view travels as flags and digests where it differs from the receiver's.
    view = 0 if params.is_complete else flag_bytes + peers * DIGEST_BYTES
    longest = {
        AdvertiseKeys: 2 * KEY_BYTES + signed,
        PeerKeys: peers * (_ID_BYTES + 2 * KEY_BYTES + signed),
        ShareKeys: shares + noise.commitments_bytes(params) + noise.corrections_bytes(params, peers),
        PeerShares: shares,
        MaskedInput: packing.packed_size(params.vector_length, params.ring_bits),
        SurvivorList: flag_bytes,
        ConsistencyCheck: _signature_bytes(params),
        ConsistencyProof: peers * (SIGNATURE_BYTES + view) + flag_bytes if params.is_signed else 0,
        UnmaskingShares: flag_bytes
        + peers * (SHARE_BYTES * (1 + params.noise_components) + prg.KEY_BYTES * params.hands_over_pairwise_keys),
    }
    return _ENVELOPE_BYTES + (max(longest.values()) if kind is None else longest[kind])


def _identity_bytes(params: Parameters) -> int:
    return signing.KEY_BYTES if params.is_signed else 0


def _signature_bytes(params: Parameters) -> int:
    return SIGNATURE_BYTES if params.is_signed else 0


def encode(message: Message, params: Parameters) -> bytes:
    """Return the message's bytes; ``params`` gives the width of a masked input's elements.

    Raises:
        LocalProtocolError: the message does not fit these parameters.
    """
    return b"".join(encode_parts(message, params))


def encode_parts(message: Message, params: Parameters) -> tuple[bytes | memoryview, ...]:
    """Return the bytes of `encode` in parts, for a transport that can gather: a packed vector is not copied again.

    In a ring of exactly 8, 16, 32 or 64 bits the last part is a view of the message's vector.
    """
    _check_params(params)
    try:
        code, fields = _encoded_fields(message, params)
        *small, last = fields
        items = (PROTOCOL_VERSION, code, message.session_id, *_checked(small))
        payload = memoryview(last)
        head = bytes([0x90 + len(items) + 1]) + b"".join(map(msgpack.packb, items)) + _bin_header(payload.nbytes)
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error) as error:
        raise LocalProtocolError(f"{type(message).__name__} with fields that cannot be encoded: {error}") from None
    return head, payload


def decode_client_message(data: bytes | memoryview, params: Parameters) -> ClientMessage:
    """Return the message that a client sent; CodecError if the bytes are not one."""
    return _decode(data, params, _CLIENT_DECODERS)


def decode_server_message(data: bytes | memoryview, params: Parameters) -> ServerMessage:
    """Return the message that the server sent; CodecError if the bytes are not one."""
    return _decode(data, params, _SERVER_DECODERS)


def _decode(
    data: bytes | memoryview,
    params: Parameters,
    decoders: dict[int, tuple[int, Callable[[MessageReader, bytes, Parameters], _M]]],
) -> _M:
    try:
        view = memoryview(data).toreadonly().cast("B")
    except TypeError:
        raise CodecError("a message must be a contiguous row of bytes") from None
    # This also checks the type of params.
    limit = max_message_bytes(params)
    if view.nbytes > limit:
        raise CodecError(f"{view.nbytes} bytes, but no message of this session has more than {limit}")
    reader = MessageReader(view)
    num_fields = reader.array() - 3
    if num_fields < 0:
        raise CodecError("a message has a version, a type and a session id")
    version = reader.uint()
    if version != PROTOCOL_VERSION:
        raise CodecError(f"protocol version {version}, but this library speaks version {PROTOCOL_VERSION}")
    code = reader.uint()
    if code not in decoders or (code in _SIGNED_TYPES and not params.is_signed):
        raise CodecError(f"message type {code} is not known in this direction")
    expected_fields, read = decoders[code]
    if num_fields != expected_fields:
        raise CodecError(f"message type {code} has {expected_fields} fields, not {num_fields}")
    message = read(reader, bytes(reader.bin_of(SESSION_ID_BYTES, "session id")), params)
    reader.end()
    return message


def _bin_header(size: int) -> bytes:
    """Return msgpack's header of a byte string, in its shortest form."""
    width = 1 if size < 0x100 else 2 if size < 0x10000 else 4
    return bytes([0xC4 + width // 2]) + size.to_bytes(width, "big")


def _checked(fields: list[Any]) -> list[Any]:
    """Return the fields; TypeError unless they are bytes, but for a number of flags, which comes first."""
    numbers = [field for field in fields[:1] if type(field) is int]
    for field in fields[len(numbers) :]:
        if not isinstance(field, bytes | bytearray | memoryview):
            raise TypeError(f"{type(field).__name__} where bytes are expected")
    return fields


def _encoded_fields(message: Message, params: Parameters) -> tuple[MessageType, tuple[Any, ...]]:
    """Return the message's type and fields; the last field is a byte string."""
    match message:
        case AdvertiseKeys():
            keys = (message.channel_public_key, message.mask_public_key)
            return MessageType.ADVERTISE_KEYS, (*keys, message.identity_key, message.signature)
        case PeerKeys():
            # NumPy 1 would wrap an id that is out of range into the id of another client.
            ids = struct.pack(f">{len(message.client_ids)}I", *message.client_ids)
            keys = (message.channel_public_keys, message.mask_public_keys)
            return MessageType.PEER_KEYS, (ids, *keys, message.identity_keys, message.signatures)
        case ShareKeys():
            of_noise = (message.noise_commitments, message.noise_corrections)
            return MessageType.SHARE_KEYS, (message.seed_commitment, message.encrypted_shares, *of_noise)
        case PeerShares():
            return MessageType.PEER_SHARES, (len(message.shared), _pack_flags(message.shared), message.encrypted_shares)
        case MaskedInput():
            _check_masked_input(message, params)
            return MessageType.MASKED_INPUT, (packing.pack(message.masked_input, params.ring_bits).data,)
        case SurvivorList():
            return MessageType.SURVIVOR_LIST, (len(message.survivors), _pack_flags(message.survivors))
        case UnmaskingShares():
            return MessageType.UNMASKING_SHARES, (
                len(message.held),
                _pack_flags(message.held),
                shares_to_bytes(message.shares),
                message.pairwise_keys,
                message.noise_pads,
            )
        case ConsistencyCheck():
            return MessageType.CONSISTENCY_CHECK, (message.signature,)
        case ConsistencyProof():
            flags = (len(message.consistent), _pack_flags(message.consistent))
            return MessageType.CONSISTENCY_PROOF, (*flags, message.signatures, message.common, message.others)
        case _:
            raise LocalProtocolError(f"encode() takes a message, not {type(message).__name__}")


def _check_masked_input(message: MaskedInput, params: Parameters) -> None:
    if not ring.is_vector(message.masked_input, params.vector_length, params.ring_bits):
        dtype = ring.word_dtype(params.ring_bits)
        raise LocalProtocolError(f"a masked input must have shape ({params.vector_length},) and dtype {dtype}")
    # Higher bits would spill into the next element.
    if not ring.is_reduced(message.masked_input, params.ring_bits):
        raise LocalProtocolError(f"the elements of a masked input must be below 2^{params.ring_bits}")


def _check_params(params: Parameters) -> None:
    if not isinstance(params, Parameters):
        raise LocalProtocolError(f"params must be secagg.Parameters, not {type(params).__name__}")


def _pack_flags(flags: Flags) -> bytes:
    return np.packbits(np.array(flags, dtype=bool), bitorder="little").tobytes()


def _read_advertise_keys(reader: MessageReader, session_id: bytes, params: Parameters) -> AdvertiseKeys:
    return AdvertiseKeys(
        session_id,
        channel_public_key=bytes(reader.bin_of(KEY_BYTES, "channel public key")),
        mask_public_key=bytes(reader.bin_of(KEY_BYTES, "mask public key")),
        identity_key=bytes(reader.bin_of(_identity_bytes(params), "identity key")),
        signature=bytes(reader.bin_of(_signature_bytes(params), "signature")),
    )


def _read_peer_keys(reader: MessageReader, session_id: bytes, params: Parameters) -> PeerKeys:
    ids: npt.NDArray[np.uint32] = np.frombuffer(
        reader.items(_ID_BYTES, params.degree + 1, "client ids"), dtype=_ID_DTYPE
    )
    if len(ids) > 1 and not bool(np.all(ids[1:] > ids[:-1])):
        raise CodecError("client ids: not ascending")
    keys_bytes = len(ids) * KEY_BYTES
    return PeerKeys(
        session_id,
        client_ids=tuple(ids.tolist()),
        channel_public_keys=bytes(reader.bin_of(keys_bytes, "channel public keys")),
        mask_public_keys=bytes(reader.bin_of(keys_bytes, "mask public keys")),
        identity_keys=bytes(reader.bin_of(len(ids) * _identity_bytes(params), "identity keys")),
        signatures=bytes(reader.bin_of(len(ids) * _signature_bytes(params), "signatures")),
    )


def _read_share_keys(reader: MessageReader, session_id: bytes, params: Parameters) -> ShareKeys:
    return ShareKeys(
        session_id,
        seed_commitment=bytes(reader.bin_of(DIGEST_BYTES, "seed commitment")),
        encrypted_shares=bytes(reader.items(ENCRYPTED_SHARES_BYTES, params.degree, "encrypted shares")),
        noise_commitments=bytes(reader.bin_of(noise.commitments_bytes(params), "noise commitments")),
        noise_corrections=_read_noise(reader, noise.corrections_bytes(params, params.num_clients), params),
    )


def _read_peer_shares(reader: MessageReader, session_id: bytes, params: Parameters) -> PeerShares:
    shared = reader.flags(params.degree + 1)
    encrypted_shares = bytes(reader.items(ENCRYPTED_SHARES_BYTES, params.degree, "encrypted shares"))
    return PeerShares(session_id, shared, encrypted_shares)


def _read_masked_input(reader: MessageReader, session_id: bytes, params: Parameters) -> MaskedInput:
    size = packing.packed_size(params.vector_length, params.ring_bits)
    packed = np.frombuffer(reader.bin_of(size, "masked input"), dtype=np.uint8)
    if not packing.padding_is_zero(packed, params.vector_length, params.ring_bits):
        raise CodecError("masked input: the padding is not zero")
    # Check that nothing follows the vector before it is unpacked.
    reader.end()
    return MaskedInput(session_id, packing.unpack(packed, params.vector_length, params.ring_bits))


def _read_survivor_list(reader: MessageReader, session_id: bytes, params: Parameters) -> SurvivorList:
    return SurvivorList(session_id, reader.flags(params.degree + 1))


def _read_consistency_check(reader: MessageReader, session_id: bytes, params: Parameters) -> ConsistencyCheck:
    return ConsistencyCheck(session_id, bytes(reader.bin_of(SIGNATURE_BYTES, "signature")))


def _read_consistency_proof(reader: MessageReader, session_id: bytes, params: Parameters) -> ConsistencyProof:
    consistent = reader.flags(params.degree + 1)
    signatures = bytes(reader.items(SIGNATURE_BYTES, params.degree, "signatures"))
    peers = 0 if params.is_complete else len(signatures) // SIGNATURE_BYTES
    common = bytes(reader.bin_of(peers * ((len(consistent) + 7) // 8), "common members"))
    others = bytes(reader.items(DIGEST_BYTES, peers * len(consistent), "other members"))
    return ConsistencyProof(session_id, consistent, signatures, common, others)


def _read_unmasking_shares(reader: MessageReader, session_id: bytes, params: Parameters) -> UnmaskingShares:
    held = reader.flags(params.degree + 1)
    data = reader.bin_of(sum(held) * SHARE_BYTES, "shares")
    try:
        shares = shares_from_bytes(data)
    except InvalidSharesError as error:
        raise CodecError(str(error)) from None
    peers = params.degree if params.hands_over_pairwise_keys else 0
    pairwise_keys = bytes(reader.items(prg.KEY_BYTES, peers, "pairwise keys"))
    noise_pads = _read_noise(reader, sum(held) * params.noise_components * SHARE_BYTES, params)
    return UnmaskingShares(session_id, held, shares, pairwise_keys, noise_pads)


def _read_noise(reader: MessageReader, limit: int, params: Parameters) -> bytes:
    """Read at most so many bytes of field elements; none without noise components."""
    data = reader.items(SHARE_BYTES, limit // SHARE_BYTES if params.noise_components else 0, "noise shares")
    try:
        shares_from_bytes(data)
    except InvalidSharesError as error:
        raise CodecError(str(error)) from None
    return bytes(data)


# Messages that only signed sessions have.
_SIGNED_TYPES = frozenset((MessageType.CONSISTENCY_CHECK, MessageType.CONSISTENCY_PROOF))

_CLIENT_DECODERS: dict[int, tuple[int, Callable[[MessageReader, bytes, Parameters], ClientMessage]]] = {
    MessageType.ADVERTISE_KEYS: (4, _read_advertise_keys),
    MessageType.SHARE_KEYS: (4, _read_share_keys),
    MessageType.MASKED_INPUT: (1, _read_masked_input),
    MessageType.UNMASKING_SHARES: (5, _read_unmasking_shares),
    MessageType.CONSISTENCY_CHECK: (1, _read_consistency_check),
}
_SERVER_DECODERS: dict[int, tuple[int, Callable[[MessageReader, bytes, Parameters], ServerMessage]]] = {
    MessageType.PEER_KEYS: (5, _read_peer_keys),
    MessageType.PEER_SHARES: (3, _read_peer_shares),
    MessageType.SURVIVOR_LIST: (2, _read_survivor_list),
    MessageType.CONSISTENCY_PROOF: (5, _read_consistency_proof),
}
