"""primitives.json: the protocol's computations from bytes, one by one."""

from typing import Any

from secagg import Adversary, Parameters, masking, sharing, statements
from secagg.primitives import aead, agreement, kdf, labels
from secagg.session import session_id

from .algebra import packing, reed_solomon, shamir_shares
from .entropy import Stream
from .expansion import mask_generator, masks, seed_limbs, sharing_coefficients
from .keys import ed25519_keys, signatures, x25519_keys
from .layout import document, group, parameters_of
from .noise import noise_seeds, noise_shares, pad_keys, removed_components

FIELDS = {
    "groups": "each with what it is (description), where it is defined (source), and its cases; byte strings in hex",
    "secret_key": "X25519 keys are given clamped, so that every bit of them counts; `x25519_keys` has one that is not",
    "*_sha256": "SHA-256 of a result that is too long to be given in full",
}

NAME = "primitives"


def build_primitives() -> dict[str, Any]:
    """Return the file."""
    stream = Stream(NAME)
    groups = {
        "session_id": _session_ids(stream),
        "mask_key_pair": _mask_key_pairs(stream),
        "pairwise_mask_key": _pairwise_mask_keys(stream),
        "self_mask_key": _self_mask_keys(stream),
        "channel_keys": _channel_keys(stream),
        "encrypted_shares": _encrypted_shares(stream),
        "seed_commitment": _seed_commitments(stream),
        "mask_generator": mask_generator(stream),
        "mask": masks(stream),
        "seed_limbs": seed_limbs(stream),
        "sharing_coefficients": sharing_coefficients(stream),
        "shamir": shamir_shares(stream),
        "error_positions": reed_solomon(stream),
        "packing": packing(stream),
        "statements": _statements(stream),
        "signatures": signatures(stream),
        "x25519_keys": x25519_keys(stream),
        "ed25519_keys": ed25519_keys(stream),
        "noise_seeds": noise_seeds(stream),
        "noise_pad_keys": pad_keys(stream),
        "noise_shares": noise_shares(stream),
        "removed_components": removed_components(),
    }
    return document("The primitives and encodings of the protocol.", FIELDS, groups=groups)


def clamped_key(stream: Stream) -> bytes:
    """Return an X25519 secret key with the bits set and cleared as in RFC 7748, section 5."""
    key = bytearray(stream(32))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return bytes(key)


def _session_ids(stream: Stream) -> dict[str, Any]:
    sets = (
        (Parameters(num_clients=5, threshold=3, degree=4, vector_length=10, value_bits=8, ring_bits=11), b"", b""),
        (
            Parameters(
                num_clients=20,
                threshold=4,
                degree=6,
                vector_length=100_000,
                value_bits=16,
                ring_bits=21,
                adversary=Adversary.SEMI_MALICIOUS,
            ),
            stream(16),
            b"a context",
        ),
        (
            Parameters(
                num_clients=7,
                threshold=4,
                degree=6,
                vector_length=20,
                value_bits=30,
                ring_bits=33,
                adversary=Adversary.MALICIOUS,
            ),
            stream(255),
            stream(32),
        ),
        (
            Parameters(
                num_clients=2**24,
                threshold=44,
                degree=62,
                vector_length=2**32 - 2**12,
                value_bits=8,
                ring_bits=8,
                modular=True,
            ),
            b"\x00",
            stream(300),
        ),
    )
    cases = [
        {
            "parameters": parameters_of(params),
            "nonce": nonce,
            "context": context,
            "session_id": session_id(params, nonce=nonce, context=context),
        }
        for params, nonce, context in sets
    ]
    return group(
        "SHA-256 of label, version, parameters, nonce and context, each of a fixed width or with its length before it",
        "docs/protocol.md; FIPS 180-4",
        cases,
    )


def _mask_key_pairs(stream: Stream) -> dict[str, Any]:
    cases = []
    for client_id in (0, 17, 2**32 - 1):
        session, seed = stream(32), stream(16)
        context = client_id.to_bytes(4, "big")
        secret_key = kdf.derive(seed, salt=session, label=labels.MASK_KEY_PAIR, context=context, length=32)
        public_key = masking.mask_secret_key(seed, session, client_id).public_key()
        case = {"session_id": session, "client_id": client_id, "seed": seed}
        cases.append({**case, "secret_key": secret_key, "public_key": public_key})
    return group(
        "s_u^SK and s_u^PK from the seed that is shared in their stead; here the secret key is not clamped",
        "RFC 5869 with salt = session id, info = label with its length before it, client id; RFC 7748",
        cases,
    )


def _pairwise_mask_keys(stream: Stream) -> dict[str, Any]:
    cases = []
    for own_id, peer_id in ((3, 17), (17, 3), (0, 2**32 - 1), (256, 255)):
        session, secrets = stream(32), (clamped_key(stream), clamped_key(stream))
        own, peer = map(agreement.SecretKey, secrets)
        mask = masking.pairwise_mask(own, peer.public_key(), session, own_id, peer_id)
        other = masking.pairwise_mask(peer, own.public_key(), session, peer_id, own_id)
        if mask.key != other.key or mask.subtract == other.subtract:
            raise AssertionError("the two sides of a pair do not match")
        cases.append(
            {
                "session_id": session,
                "own_id": own_id,
                "peer_id": peer_id,
                "own_secret_key": secrets[0],
                "own_public_key": own.public_key(),
                "peer_secret_key": secrets[1],
                "peer_public_key": peer.public_key(),
                "shared_secret": own.exchange(peer.public_key()),
                "key": mask.key,
                "own_side": "subtract" if mask.subtract else "add",
                "peer_side": "subtract" if other.subtract else "add",
            }
        )
    return group(
        "the generator's key of p_uv, equal from both sides; the smaller id adds the mask, the larger subtracts it",
        "RFC 7748; RFC 5869 with salt = session id, info = label, smaller id, larger id",
        cases,
    )


def _self_mask_keys(stream: Stream) -> dict[str, Any]:
    cases = []
    for client_id in (0, 1, 2**31):
        session, seed = stream(32), stream(16)
        key = masking.self_mask(seed, session, client_id).key
        cases.append({"session_id": session, "client_id": client_id, "seed": seed, "key": key})
    return group(
        "the generator's key of p_u, from b_u", "RFC 5869 with salt = session id, info = label, client id", cases
    )


def _agreed_keys(secret_key: bytes, peer_public_key: bytes, session: bytes, low: int, high: int) -> bytes:
    return kdf.derive(
        agreement.SecretKey(secret_key).exchange(peer_public_key),
        salt=session,
        label=labels.CHANNEL_KEYS,
        context=low.to_bytes(4, "big") + high.to_bytes(4, "big"),
        length=2 * aead.KEY_BYTES,
    )


def _channel_keys(stream: Stream) -> dict[str, Any]:
    cases = []
    for low, high in ((3, 17), (0, 2**32 - 1)):
        session, secrets = stream(32), (clamped_key(stream), clamped_key(stream))
        publics = tuple(map(agreement.public_key, secrets))
        keys = _agreed_keys(secrets[0], publics[1], session, low, high)
        channel = sharing.ShareChannel.agree(agreement.SecretKey(secrets[0]), publics[1], session, low, high)
        if channel.receive_key != keys[aead.KEY_BYTES :]:
            raise AssertionError("a channel's keys are not the derived ones")
        cases.append(
            {
                "session_id": session,
                "low_id": low,
                "high_id": high,
                "low_secret_key": secrets[0],
                "low_public_key": publics[0],
                "high_secret_key": secrets[1],
                "high_public_key": publics[1],
                "low_to_high": keys[: aead.KEY_BYTES],
                "high_to_low": keys[aead.KEY_BYTES :],
            }
        )
    return group(
        "the keys under which two clients encrypt shares for each other, one a direction",
        "RFC 7748; RFC 5869 with salt = session id, info = label, smaller id, larger id; 32 bytes in two halves",
        cases,
    )


def _encrypted_shares(stream: Stream) -> dict[str, Any]:
    cases = []
    for sender, receiver in ((3, 17), (17, 3)):
        session, secrets = stream(32), (clamped_key(stream), clamped_key(stream))
        peer_key = agreement.public_key(secrets[1])
        channel = sharing.ShareChannel.agree(agreement.SecretKey(secrets[0]), peer_key, session, sender, receiver)
        shares = sharing.uniform_field_elements(18, stream).reshape(2, 9)
        plaintext = sharing.shares_to_bytes(shares)
        ciphertext = channel.seal_shares(plaintext, session, sender, receiver)
        keys = _agreed_keys(secrets[0], peer_key, session, *sorted((sender, receiver)))
        ids = sender.to_bytes(4, "big") + receiver.to_bytes(4, "big")
        case = {
            "session_id": session,
            "sender": sender,
            "receiver": receiver,
            "key": keys[:16] if sender < receiver else keys[16:],
            "mask_key_share": shares[0].tolist(),
            "self_mask_share": shares[1].tolist(),
            "plaintext": plaintext,
            "associated_data": labels.SHARE_DATA + session + ids,
            "ciphertext": ciphertext,
        }
        if aead.seal(case["key"], plaintext, case["associated_data"]) != ciphertext:
            raise AssertionError("a ciphertext does not follow from its parts")
        cases.append(case)
    return group(
        "e_uv: a share of the mask key's seed, then one of the self-mask seed, 9 big-endian 16-bit limbs each",
        "AES-128-GCM (NIST SP 800-38D), nonce zero since each key is used once; ciphertext, then tag of 16 bytes",
        cases,
    )


def _seed_commitments(stream: Stream) -> dict[str, Any]:
    cases = []
    for client_id in (0, 2**32 - 1):
        session, seed = stream(32), stream(16)
        commitment = sharing.seed_commitment(seed, session, client_id)
        cases.append({"session_id": session, "client_id": client_id, "seed": seed, "commitment": commitment})
    return group(
        "what a client commits itself to its self-mask seed with",
        "SHA-256 of label with its length before it, session id, client id, seed",
        cases,
    )


def _statements(stream: Stream) -> dict[str, Any]:
    session = stream(32)
    members: list[dict[str, Any]] = []
    for client_id, standing in zip((3, 17, 1000, 2**32 - 1), (2, 1, 0, 2), strict=True):
        identity_key, channel_key, mask_key = stream(32), stream(32), stream(32)
        keys = statements.keys_digest(session, client_id, identity_key, channel_key, mask_key)
        members.append(
            {
                "client_id": client_id,
                "identity_key": identity_key,
                "channel_public_key": channel_key,
                "mask_public_key": mask_key,
                "advertised_keys_statement": statements.advertised_keys(session, client_id, channel_key, mask_key),
                "member_keys": keys,
                "standing": standing,
                "member": statements.member(keys, statements.Standing(standing)),
            }
        )
    digest = statements.view_digest(session, [member["member"] for member in members])
    case = {
        "session_id": session,
        "members": members,
        "view_digest": digest,
        "signer_id": 17,
        "view_statement": statements.view(session, 17, digest),
    }
    return group(
        "what is signed in AdvertiseKeys and ConsistencyCheck; standing: 0 advertised keys, 1 shared keys, 2 survived; "
        "the view's digest takes the members' in ascending order of their bytes",
        "docs/protocol.md; labels within a digest have their length before them, those at the start of a statement not",
        [case],
    )
