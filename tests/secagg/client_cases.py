"""Server messages that break a rule, each made from an honest message."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from secagg import Adversary, ClientPhase, Rule
from secagg.messages import ConsistencyCheck, ConsistencyProof, PeerKeys, PeerShares, SurvivorList
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests import reference
from tests.secagg.machines import ALICE, BAD_POINTS, HONEST, IDS, MALICIOUS, MODES, Halt, Script, script
from tests.support.sessions import identity_of

OWN_PLACE = IDS.index(ALICE)
OTHERS = tuple(client_id for client_id in IDS if client_id != ALICE)

PHASE_OF = {
    PeerKeys: ClientPhase.ADVERTISED,
    PeerShares: ClientPhase.SHARED_KEYS,
    SurvivorList: ClientPhase.MASKED,
    ConsistencyProof: ClientPhase.SURVIVORS_SIGNED,
}
"""The only phase in which a client accepts a message of this type."""


@dataclass(frozen=True)
class Case:
    """A message that breaks ``rule``, made from the honest one, and the modes in which this is possible."""

    name: str
    rule: Rule
    kind: type
    tweak: Callable
    culprits: tuple[int, ...] = ()
    modes: tuple[Adversary, ...] = MODES


@dataclass(frozen=True)
class Broken:
    """A case in one of its modes."""

    case: Case
    adversary: Adversary

    @property
    def script(self) -> Script:
        return script(self.adversary)

    def client(self):
        return Halt(self.adversary, PHASE_OF[self.case.kind]).client()

    def message(self):
        return self.case.tweak(self.script.message(self.case.kind, ALICE))

    def __str__(self) -> str:
        return f"{self.case.rule.name}: {self.case.name} ({self.adversary.value})"


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# --- Lists of keys ---------------------------------------------------------------------------------------------------

CHANNEL, MASK, IDENTITY, SIGNATURE = "channel_public_keys", "mask_public_keys", "identity_keys", "signatures"

ITEM_BYTES = {CHANNEL: 32, MASK: 32, IDENTITY: 32, SIGNATURE: 64}


def keep(*places: int):
    """Return PeerKeys of only the clients in these places, in this order."""

    def tweak(message: PeerKeys) -> PeerKeys:
        kept = {}
        for name, size in ITEM_BYTES.items():
            items = split(getattr(message, name), size)
            kept[name] = b"".join(items[place] for place in places) if items else b""
        return PeerKeys(message.session_id, tuple(message.client_ids[place] for place in places), **kept)

    return tweak


def with_item(name: str, place: int, item: bytes | tuple[str, int]):
    """Return PeerKeys with one key or signature replaced; ``item`` says by which other place of the same message."""

    def tweak(message: PeerKeys) -> PeerKeys:
        items = split(getattr(message, name), ITEM_BYTES[name])
        size = ITEM_BYTES[name]
        items[place] = item if isinstance(item, bytes) else split(getattr(message, item[0]), size)[item[1]]
        return replace(message, **{name: b"".join(items)})

    return tweak


def with_one_more_client(message: PeerKeys) -> PeerKeys:
    new_keys = [reference.x25519_public(bytes([number]) * 32) for number in (1, 2)]
    return PeerKeys(
        message.session_id,
        (0, *message.client_ids),
        new_keys[0] + message.channel_public_keys,
        new_keys[1] + message.mask_public_keys,
        bytes(32) + message.identity_keys if message.identity_keys else b"",
        bytes(64) + message.signatures if message.signatures else b"",
    )


def with_ids(*client_ids: int):
    return lambda message: replace(message, client_ids=client_ids)


def signed_anew(place: int, signer: int, session: bytes | None = None, signed_id: int | None = None):
    """Return PeerKeys with the keys in one place signed by the identity of ``signer``, which stands there too."""

    def tweak(message: PeerKeys) -> PeerKeys:
        channel, mask = (split(getattr(message, name), 32)[place] for name in (CHANNEL, MASK))
        owner = message.client_ids[place] if signed_id is None else signed_id
        statement = b"secagg/1 advertised keys" + (message.session_id if session is None else session)
        signature = identity_of(signer).sign(statement + reference.id_bytes(owner) + channel + mask)
        known = with_item(IDENTITY, place, identity_of(signer).public_key)(message)
        return with_item(SIGNATURE, place, signature)(known)

    return tweak


def replaced_and_signed(place: int, signer: int):
    """Return PeerKeys with other keys in one place, signed by ``signer``: the server poses as that client."""

    def tweak(message: PeerKeys) -> PeerKeys:
        for name, number in ((CHANNEL, 1), (MASK, 2)):
            message = with_item(name, place, reference.x25519_public(bytes([number]) * 32))(message)
        return signed_anew(place, signer)(message)

    return tweak


def without_signatures(message: PeerKeys) -> PeerKeys:
    return replace(message, identity_keys=b"", signatures=b"")


# --- Other lists -----------------------------------------------------------------------------------------------------


def resized(name: str, change: int):
    """Return the message with bytes or flags of a field cut off or added."""

    def tweak(message):
        value = getattr(message, name)
        filler = b"\0" if isinstance(value, bytes) else (True,)
        return replace(message, **{name: value[:change] if change < 0 else value + filler * change})

    return tweak


def with_shared(*places: int):
    """Return PeerShares of only these places, with the shares that belong to them."""

    def tweak(message: PeerShares) -> PeerShares:
        others = [place for place in range(5) if place != OWN_PLACE]
        items = dict(zip(others, split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES), strict=True))
        return PeerShares(
            message.session_id,
            tuple(place in places for place in range(5)),
            b"".join(items[place] for place in places if place != OWN_PLACE),
        )

    return tweak


def with_survivors(*places: int):
    return lambda message: replace(message, survivors=tuple(place in places for place in range(5)))


def with_damaged_shares(*numbers: int):
    """Return PeerShares with a bit flipped in some of the encrypted shares."""

    def tweak(message: PeerShares) -> PeerShares:
        data = bytearray(message.encrypted_shares)
        for number in numbers:
            data[number * ENCRYPTED_SHARES_BYTES + 7] ^= 1
        return replace(message, encrypted_shares=bytes(data))

    return tweak


def signed_by(*places: int):
    """Return ConsistencyProof of only these places with their signatures; zeros where a signature is missing."""

    def tweak(message: ConsistencyProof) -> ConsistencyProof:
        recorded = script(MALICIOUS).client_messages[ConsistencyCheck]
        signatures = [
            recorded[client_id].signature if client_id in recorded else bytes(64)
            for place, client_id in enumerate(IDS)
            if place in places and place != OWN_PLACE
        ]
        return replace(
            message, consistent=tuple(place in places for place in range(5)), signatures=b"".join(signatures)
        )

    return tweak


def with_bad_signatures(*numbers: int):
    """Return ConsistencyProof in which some signatures are valid signatures of other clients."""

    def tweak(message: ConsistencyProof) -> ConsistencyProof:
        signatures = split(message.signatures, 64)
        turned = [signatures[number - 1] for number in range(len(signatures))]
        chosen = [turned[number] if number in numbers else item for number, item in enumerate(signatures)]
        return replace(message, signatures=b"".join(chosen))

    return tweak


# --- The cases -------------------------------------------------------------------------------------------------------

ONLY_HONEST, ONLY_MALICIOUS = (HONEST,), (MALICIOUS,)

CASES = [
    Case("keys of two clients", Rule.TOO_FEW_PEERS, PeerKeys, keep(1, 4)),
    Case("keys of this client alone", Rule.TOO_FEW_PEERS, PeerKeys, keep(1)),
    Case("two clients shared", Rule.TOO_FEW_PEERS, PeerShares, with_shared(1, 2)),
    Case("two clients survive", Rule.TOO_FEW_PEERS, SurvivorList, with_survivors(0, 1)),
    Case("six clients", Rule.TOO_MANY_PEERS, PeerKeys, with_one_more_client),
    Case("keys of others only", Rule.SELF_MISSING, PeerKeys, keep(0, 2, 3, 4)),
    Case("no keys at all", Rule.SELF_MISSING, PeerKeys, keep()),
    Case("others shared", Rule.SELF_MISSING, PeerShares, with_shared(0, 2, 3, 4)),
    Case("others survive", Rule.SELF_MISSING, SurvivorList, with_survivors(0, 3, 4)),
    Case("nobody survives", Rule.SELF_MISSING, SurvivorList, with_survivors()),
    Case("own channel key changed", Rule.KEYS_OF_SELF_CHANGED, PeerKeys, with_item(CHANNEL, 1, bytes([9] * 32))),
    Case("own mask key changed", Rule.KEYS_OF_SELF_CHANGED, PeerKeys, with_item(MASK, 1, bytes([9] * 32))),
    Case("own mask key is the channel key", Rule.KEYS_OF_SELF_CHANGED, PeerKeys, with_item(MASK, 1, (CHANNEL, 1))),
    Case("two ids swapped", Rule.IDS_NOT_ASCENDING, PeerKeys, with_ids(3, 17, 2**31, 1000, 2**32 - 1)),
    Case("an id twice", Rule.IDS_NOT_ASCENDING, PeerKeys, with_ids(3, 17, 1000, 1000, 2**32 - 1)),
    Case("own id twice", Rule.IDS_NOT_ASCENDING, PeerKeys, with_ids(17, 17, 1000, 2**31, 2**32 - 1)),
    Case("a channel key twice", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_item(CHANNEL, 0, (CHANNEL, 4))),
    Case("a mask key twice", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_item(MASK, 3, (MASK, 4))),
    Case("a mask key as channel key", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_item(CHANNEL, 2, (MASK, 2))),
    Case("own mask key for a peer too", Rule.KEYS_NOT_DISTINCT, PeerKeys, with_item(MASK, 0, (MASK, 1))),
    *(
        Case(f"{field}: {name}", Rule.INVALID_PUBLIC_KEY, PeerKeys, with_item(field, place, point), (client_id,))
        for field, place, client_id in [(CHANNEL, 0, 3), (MASK, 4, 2**32 - 1)]
        for name, point in BAD_POINTS.items()
    ),
    Case("a channel key too few", Rule.WRONG_SIZE, PeerKeys, resized(CHANNEL, -32)),
    Case("a byte too many", Rule.WRONG_SIZE, PeerKeys, resized(MASK, 1)),
    Case("a client too few", Rule.WRONG_SIZE, PeerKeys, with_ids(3, 17, 1000, 2**31)),
    Case("identity keys", Rule.WRONG_SIZE, PeerKeys, resized(IDENTITY, 5 * 32), (), ONLY_HONEST),
    Case("signatures", Rule.WRONG_SIZE, PeerKeys, resized(SIGNATURE, 5 * 64), (), ONLY_HONEST),
    Case("no identities", Rule.WRONG_SIZE, PeerKeys, without_signatures, (), ONLY_MALICIOUS),
    Case("an identity key too few", Rule.WRONG_SIZE, PeerKeys, resized(IDENTITY, -32), (), ONLY_MALICIOUS),
    Case("a signature too many", Rule.WRONG_SIZE, PeerKeys, resized(SIGNATURE, 64), (), ONLY_MALICIOUS),
    Case("a flag too few", Rule.WRONG_SIZE, PeerShares, resized("shared", -1)),
    Case("a flag too many", Rule.WRONG_SIZE, PeerShares, resized("shared", 1)),
    Case("no flags", Rule.WRONG_SIZE, PeerShares, resized("shared", -5)),
    Case("a share too few", Rule.WRONG_SIZE, PeerShares, resized("encrypted_shares", -ENCRYPTED_SHARES_BYTES)),
    Case("a share too many", Rule.WRONG_SIZE, PeerShares, resized("encrypted_shares", ENCRYPTED_SHARES_BYTES)),
    Case("a share's byte too few", Rule.WRONG_SIZE, PeerShares, resized("encrypted_shares", -1)),
    Case("a survivor's flag too few", Rule.WRONG_SIZE, SurvivorList, resized("survivors", -1)),
    Case("a survivor's flag too many", Rule.WRONG_SIZE, SurvivorList, resized("survivors", 1)),
    Case("no survivors' flags", Rule.WRONG_SIZE, SurvivorList, resized("survivors", -5)),
    *(
        Case(
            f"damaged shares of {culprits}",
            Rule.TOO_FEW_VALID_SHARES,
            PeerShares,
            with_damaged_shares(*(OTHERS.index(client_id) for client_id in culprits)),
            culprits,
        )
        for culprits in [(3, 1000, 2**32 - 1), OTHERS]
    ),
]


def _of_keys(name: str, rule: Rule, tweak: Callable, *culprits: int) -> Case:
    return Case(name, rule, PeerKeys, tweak, culprits, ONLY_MALICIOUS)


def _of_proofs(name: str, rule: Rule, tweak: Callable, *culprits: int) -> Case:
    return Case(name, rule, ConsistencyProof, tweak, culprits, ONLY_MALICIOUS)


# A client that is on no directory, and one that is on it but belongs in another place of the list.
STRANGER = 4711

CASES += [
    _of_keys("own identity key changed", Rule.KEYS_OF_SELF_CHANGED, signed_anew(1, STRANGER)),
    _of_keys("an identity key twice", Rule.IDENTITY_NOT_DISTINCT, signed_anew(0, 1000)),
    _of_keys("own identity key for a peer too", Rule.IDENTITY_NOT_DISTINCT, signed_anew(3, ALICE)),
    _of_keys("an identity that nobody knows", Rule.IDENTITY_NOT_TRUSTED, signed_anew(3, STRANGER), 2**31),
    _of_keys("keys of a server that plays a peer", Rule.IDENTITY_NOT_TRUSTED, replaced_and_signed(0, STRANGER), 3),
    _of_keys(
        "two peers' identities swapped",
        Rule.IDENTITY_NOT_TRUSTED,
        lambda message: signed_anew(0, 1000)(signed_anew(2, 3)(message)),
        3,
        1000,
    ),
    _of_keys("a channel key changed", Rule.INVALID_SIGNATURE, with_item(CHANNEL, 0, bytes([9] * 32)), 3),
    _of_keys("a mask key changed", Rule.INVALID_SIGNATURE, with_item(MASK, 4, bytes([9] * 32)), 2**32 - 1),
    _of_keys("another's signature", Rule.INVALID_SIGNATURE, with_item(SIGNATURE, 2, (SIGNATURE, 3)), 1000),
    _of_keys("own signature spoiled", Rule.INVALID_SIGNATURE, with_item(SIGNATURE, 1, bytes(64)), ALICE),
    _of_keys("keys signed for another session", Rule.INVALID_SIGNATURE, signed_anew(3, 2**31, bytes(32)), 2**31),
    _of_keys("keys signed as another client", Rule.INVALID_SIGNATURE, signed_anew(3, 2**31, signed_id=3), 2**31),
    _of_keys("an identity key of small order", Rule.INVALID_SIGNATURE, with_item(IDENTITY, 2, bytes(32)), 1000),
    _of_proofs("a flag too few", Rule.WRONG_SIZE, resized("consistent", -1)),
    _of_proofs("a flag too many", Rule.WRONG_SIZE, resized("consistent", 1)),
    _of_proofs("no flags of signers", Rule.WRONG_SIZE, resized("consistent", -5)),
    _of_proofs("a signature too few", Rule.WRONG_SIZE, resized("signatures", -64)),
    _of_proofs("a signature more than flags", Rule.WRONG_SIZE, resized("signatures", 64)),
    _of_proofs("a signature's byte too few", Rule.WRONG_SIZE, resized("signatures", -1)),
    _of_proofs("no signatures", Rule.WRONG_SIZE, resized("signatures", -3 * 64)),
    _of_proofs("flags of views on the complete graph", Rule.WRONG_SIZE, resized("common", 3)),
    _of_proofs("members of views on the complete graph", Rule.WRONG_SIZE, resized("others", 32)),
    _of_proofs("others signed", Rule.SELF_MISSING, signed_by(0, 3, 4)),
    _of_proofs("nobody signed", Rule.SELF_MISSING, signed_by()),
    _of_proofs("two signed", Rule.TOO_FEW_PEERS, signed_by(1, 4)),
    _of_proofs("only this client signed", Rule.TOO_FEW_PEERS, signed_by(1)),
    _of_proofs("one that vanished signed", Rule.CONSISTENT_NOT_SUBSET, signed_by(0, 1, 2, 3), 1000),
    _of_proofs("two bad signatures of three", Rule.TOO_FEW_SIGNATURES, with_bad_signatures(0, 2)),
    _of_proofs("three bad signatures", Rule.TOO_FEW_SIGNATURES, with_bad_signatures(0, 1, 2)),
    _of_proofs(
        "a bad signature where the quorum signed", Rule.TOO_FEW_SIGNATURES,
        lambda message: with_bad_signatures(0)(signed_by(0, 1, 3)(message)),
    ),
]  # fmt: skip

BROKEN = [Broken(case, mode) for case in CASES for mode in case.modes]
