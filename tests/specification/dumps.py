"""The dumps: one message of each type, item by item, with all that is needed to make the same bytes."""

from typing import TypeAlias

import secagg
from secagg import Adversary
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
from secagg.params import Parameters
from tests.support.sessions import identity_of

from .recording import ALICE, CONTEXT, NONCE, VECTORS, Recording

Sessions: TypeAlias = dict[Adversary, Recording]

FIELDS: dict[type, tuple[int, tuple[str, ...]]] = {
    AdvertiseKeys: (1, ("channel public key", "mask public key", "identity key", "signature")),
    PeerKeys: (2, ("client ids", "channel public keys", "mask public keys", "identity keys", "signatures")),
    ShareKeys: (3, ("seed commitment", "encrypted shares", "noise commitments", "noise corrections")),
    PeerShares: (4, ("number of flags", "shared", "encrypted shares")),
    MaskedInput: (5, ("packed elements",)),
    SurvivorList: (6, ("number of flags", "survivors")),
    UnmaskingShares: (7, ("number of flags", "held", "shares", "pairwise keys", "noise pads")),
    ConsistencyCheck: (8, ("signature",)),
    ConsistencyProof: (9, ("number of flags", "consistent", "signatures", "common", "others")),
}
"""The type and the fields after the session id, in order, by the names of the document."""

_CLIENT_SENDS = (AdvertiseKeys, ShareKeys, MaskedInput, ConsistencyCheck, UnmaskingShares)

_SHOWN: dict[Adversary, tuple[type, ...]] = {
    Adversary.HONEST_BUT_CURIOUS: tuple(FIELDS)[:7],
    Adversary.SEMI_MALICIOUS: (AdvertiseKeys, ConsistencyCheck),
    Adversary.MALICIOUS: (AdvertiseKeys, ConsistencyCheck, ConsistencyProof),
}
"""The dumped messages of each session."""

_NUMBERS = (
    "num_clients",
    "threshold",
    "degree",
    "vector_length",
    "value_bits",
    "ring_bits",
    "modular",
    "noise_components",
    "corrupt_clients",
)

_DRAWS = (
    (32, "channel secret key"),
    (16, "mask key seed"),
    (16, "self-mask seed"),
    (16, "sharing seed"),
    (32, "identity secret key, semi-malicious"),
)


def block() -> str:
    """Return the generated block of docs/wire-format.md: the dumps of all sessions."""
    sessions = {adversary: Recording(adversary, 2) for adversary in Adversary}
    blocks = [_ingredients(sessions)]
    for adversary, kinds in _SHOWN.items():
        recording = sessions[adversary]
        for kind in kinds:
            source = "sends" if kind in _CLIENT_SENDS else "gets"
            title = f"{kind.__name__}, as client {ALICE} {source} it in the {adversary.value} session"
            blocks.append(f"{title}:\n\n```text\n{dump(recording.message(kind), recording.params)}\n```\n")
    return "\n" + "\n".join(blocks) + "\n"


def dump(message: Message, params: Parameters) -> str:
    """Return a message's bytes, one item a line: offset, bytes, meaning."""
    data = secagg.encode(message, params)
    code, fields = FIELDS[type(message)]
    names = ["version", f"type: {type(message).__name__}", "session id", *fields]
    lines = [f"0000  {data[0]:02x}  array of {data[0] & 15}"]
    at = 1
    for name in names:
        head = data[at]
        if head < 0x80:
            lines.append(f"{at:04x}  {head:02x}  {name if ':' in name else f'{name}: {head}'}")
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


def _ingredients(sessions: Sessions) -> str:
    recording = sessions[Adversary.HONEST_BUT_CURIOUS]
    lines = [f"{name}: {getattr(recording.params, name)}" for name in _NUMBERS]
    lines += [f"context: {CONTEXT.decode()!r}", f"nonce: {NONCE.decode()!r}"]
    lines += [f"session id, {adversary.value}: {session.session_id.hex()}" for adversary, session in sessions.items()]
    for client_id in recording.inputs:
        entropy = recording.source(client_id)
        lines += [f"client {client_id}, {name}: {entropy(size).hex()}" for size, name in _DRAWS]
        lines.append(f"client {client_id}, identity secret key, malicious: {identity_of(client_id).to_bytes().hex()}")
        lines.append(f"client {client_id}, input: {list(VECTORS[client_id])}")
    (total,) = {tuple(session.end.sum.tolist()) for session in sessions.values()}
    lines.append(f"sum: {list(total)}")
    return "```text\n" + "\n".join(lines) + "\n```\n"
