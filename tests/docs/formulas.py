"""The costs and formulas of docs/protocol.md and docs/wire-format.md, worked out without the library."""

import hashlib
import hmac
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg import (
    Adversary,
    ClientPhase,
    RemoteProtocolError,
    Rule,
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
from tests.specification.recording import Recording
from tests.support.sessions import identity_of

ROOT = Path(__file__).parents[2]
FILES = ("docs/protocol.md", "docs/wire-format.md", "docs/threat-model.md", "SECURITY.md")
PROTOCOL, WIRE, THREATS, SECURITY = ((ROOT / name).read_text(encoding="utf-8") for name in FILES)


def is_signed(adversary: Adversary) -> bool:
    """Return whether this mode, by name, is a signed one."""
    modes = re.search(r"\*signed modes\*, ([\w-]+) and ([\w-]+), clients sign", " ".join(PROTOCOL.split()))
    return adversary.value in modes.groups()


def header(size: int) -> int:
    return 2 if size < 2**8 else 3 if size < 2**16 else 5


def uint(value: int) -> int:
    return 1 if value < 2**7 else 2 if value < 2**8 else 3 if value < 2**16 else 5


def message_costs(h: int, vector_bytes: int, *, signed: bool, sparse: bool) -> dict[type, int]:
    """Return the table of docs/wire-format.md, "What a peer costs"."""

    def text(size: int) -> int:
        return header(size) + size

    flags = (h + 7) // 8
    listed = 37 + uint(h) + text(flags)
    half = (h - 1) // 2
    common, others = (flags * (h - 1), 32 * half * (half + 1)) if sparse else (0, 0)
    costs = {
        AdvertiseKeys: 205 if signed else 109,
        PeerKeys: 37 + text(4 * h) + 2 * text(32 * h) + (text(32 * h) + text(64 * h) if signed else 4),
        ShareKeys: 71 + text(52 * (h - 1)) + 2 * text(0),
        PeerShares: listed + text(52 * (h - 1)),
        MaskedInput: 37 + text(vector_bytes),
        SurvivorList: listed,
        UnmaskingShares: listed + text(18 * (h - 1 if sparse else h)) + 2 * text(0),
    }
    if signed:
        costs[ConsistencyCheck] = 103
        costs[ConsistencyProof] = listed + text(64 * (h - 1)) + text(common) + text(others)
    return costs


PRIME = 65521


class Document:
    """The dumps of docs/wire-format.md as numbers, and the formulas of docs/protocol.md without the library."""

    def __init__(self, mode: str = "honest-but-curious") -> None:
        listing = WIRE.split("[[[cog")[1]
        self.values = dict(re.findall(r"^([a-z][^:\n]*): (.+)$", listing.split("```")[1], flags=re.MULTILINE))
        self.mode = mode
        self.sid = bytes.fromhex(self.values[f"session id, {mode}"])
        self.messages = {}
        dumped = rf"^(\w+), as client 3 \w+ it in the {mode} session:\n\n```text\n(.*?)```"
        for name, block in re.findall(dumped, listing, re.MULTILINE | re.DOTALL):
            items: dict[str, bytes] = {}
            for line in block.splitlines():
                if found := re.fullmatch(r"[0-9a-f]{4}  [0-9a-f ]+  (.+): \d+ bytes", line):
                    items[current := found[1]] = b""
                elif found := re.fullmatch(r"[0-9a-f]{4}    ([0-9a-f]+)", line):
                    items[current] += bytes.fromhex(found[1])
            self.messages[name] = items

    def secret(self, client_id: int, name: str) -> bytes:
        return bytes.fromhex(self.values[f"client {client_id}, {name}"])

    def number(self, name: str) -> int:
        return int(self.values[name])

    def text(self, name: str) -> bytes:
        return self.values[name].strip("'").encode()

    def kdf(self, secret: bytes, label: str, context: bytes, length: int) -> bytes:
        key = hmac.digest(self.sid, secret, "sha256")
        block = hmac.digest(key, bytes([len(label)]) + label.encode() + context + b"\x01", "sha256")
        assert length <= len(block)
        return block[:length]

    def channel(self, client_id: int) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.secret(client_id, "channel secret key"))

    def mask_key(self, client_id: int) -> X25519PrivateKey:
        seed = self.secret(client_id, "mask key seed")
        return X25519PrivateKey.from_private_bytes(self.kdf(seed, "secagg/1 mask key pair", id_bytes(client_id), 32))

    def identity(self, client_id: int) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.secret(client_id, f"identity secret key, {self.mode}"))

    def public_keys(self, client_id: int) -> bytes:
        """Return the channel and mask public keys."""
        keys = (self.channel(client_id), self.mask_key(client_id))
        return b"".join(key.public_key().public_bytes_raw() for key in keys)

    def shares(self, client_id: int, x: int) -> bytes:
        """Return both shares for the point x; threshold 2."""
        key = self.kdf(self.secret(client_id, "sharing seed"), "secagg/1 sharing coefficients", id_bytes(client_id), 16)
        stream = keystream(key, 64)
        words = [int.from_bytes(stream[at : at + 2], "big") for at in range(0, 64, 2)]
        slopes = [word for word in words if word < PRIME]
        limbs = []
        for name in ("mask key seed", "self-mask seed"):
            value = int.from_bytes(self.secret(client_id, name), "big")
            limbs += [value >> 15 * limb & 0x7FFF for limb in range(9)]
        return b"".join(
            ((limb + slope * x) % PRIME).to_bytes(2, "big") for limb, slope in zip(limbs, slopes, strict=False)
        )

    def masks(self) -> tuple[bytes, bytes]:
        """Return the keys of client 3's self-mask, and of its pairwise mask with 258."""
        shared = self.mask_key(3).exchange(self.mask_key(258).public_key())
        return (
            self.kdf(self.secret(3, "self-mask seed"), "secagg/1 self mask", id_bytes(3), 16),
            self.kdf(shared, "secagg/1 pairwise mask", id_bytes(3) + id_bytes(258), 16),
        )


def id_bytes(client_id: int) -> bytes:
    return client_id.to_bytes(4, "big")


def keystream(key: bytes, size: int) -> bytes:
    """Return the beginning of chunk 0."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(12) + (2).to_bytes(4, "big"))).encryptor()
    return encryptor.update(bytes(size))


def tagged_hash(label: str, data: bytes) -> bytes:
    return hashlib.sha256(bytes([len(label)]) + label.encode() + data).digest()


def view_member(sid: bytes, standing: int, client_id: int, keys: bytes) -> bytes:
    """Return a member of a view; ``keys`` are identity key, channel and mask public key."""
    return tagged_hash(
        "secagg/1 member", bytes([standing]) + tagged_hash("secagg/1 member keys", sid + id_bytes(client_id) + keys)
    )


class SparseSession(Recording):
    """Four survivors on a ring, each the neighbour of two; their signatures, by the formulas of docs/protocol.md."""

    def __init__(self) -> None:
        super().__init__(Adversary.MALICIOUS, 4, degree=2)

    def neighborhood(self, client_id: int) -> tuple[int, ...]:
        return self.message(PeerKeys, client_id).client_ids

    def member(self, client_id: int, standing: int = 2) -> bytes:
        sent = self.message(AdvertiseKeys, client_id)
        keys = sent.identity_key + sent.channel_public_key + sent.mask_public_key
        return view_member(self.session_id, standing, client_id, keys)

    def signature(self, client_id: int, without: int | None = None) -> bytes:
        """Return the signature of the client's view, in which one member may not have survived."""
        members = [self.member(peer, 1 if peer == without else 2) for peer in self.neighborhood(client_id)]
        digest = tagged_hash("secagg/1 view digest", self.session_id + b"".join(sorted(members)))
        statement = b"secagg/1 view of survivors" + self.session_id + id_bytes(client_id) + digest
        return identity_of(client_id).sign(statement)

    def rule_of(self, **changes: bytes) -> Rule:
        """Return the rule that a changed proof breaks for client 3."""
        proof = self.message(ConsistencyProof)
        fields = {name: getattr(proof, name) for name in proof.__slots__}
        with pytest.raises(RemoteProtocolError) as caught:
            self.client_in(ClientPhase.SURVIVORS_SIGNED, 3).receive(ConsistencyProof(**{**fields, **changes}))
        return caught.value.rule
