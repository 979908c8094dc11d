"""Check primitives.json."""

from collections.abc import Callable
from typing import Any

from . import crypto, noise, sharing, wire
from .errors import expect

Case = dict[str, Any]


def verify_primitives(groups: dict[str, Any]) -> int:
    """Recompute every case of every group in the file."""
    for name, group in groups.items():
        for number, case in enumerate(group["cases"]):
            computed = CHECKS[name](_bytes_of(case))
            for field, value in computed.items():
                found = case[field]
                expect(f"{name}, case {number}, {field}", found, value.hex() if isinstance(value, bytes) else value)
    return sum(len(group["cases"]) for group in groups.values())


_TEXTS = {"name", "own_side", "peer_side", "parameters"}


def _bytes_of(value: Any) -> Any:
    """Return the case, with bytes for hex."""
    match value:
        case dict():
            return {name: item if name in _TEXTS else _bytes_of(item) for name, item in value.items()}
        case list():
            return [_bytes_of(item) for item in value]
        case str():
            return bytes.fromhex(value)
        case _:
            return value


def _session_id(case: Case) -> Case:
    return {"session_id": crypto.session_id(case["parameters"], case["nonce"], case["context"])}


def _mask_key_pair(case: Case) -> Case:
    secret_key = crypto.mask_secret_key(case["seed"], case["session_id"], case["client_id"])
    return {"secret_key": secret_key, "public_key": crypto.x25519_public(secret_key)}


def _pairwise_mask_key(case: Case) -> Case:
    own, peer = case["own_secret_key"], case["peer_secret_key"]
    own_public, peer_public = crypto.x25519_public(own), crypto.x25519_public(peer)
    key = crypto.pairwise_mask_key(own, peer_public, case["session_id"], case["own_id"], case["peer_id"])
    other = crypto.pairwise_mask_key(peer, own_public, case["session_id"], case["peer_id"], case["own_id"])
    expect("the other side's key", other, key)
    adds = case["own_id"] < case["peer_id"]
    return {
        "own_secret_key": crypto.clamp(own),
        "own_public_key": own_public,
        "peer_secret_key": crypto.clamp(peer),
        "peer_public_key": peer_public,
        "shared_secret": crypto.x25519(own, peer_public),
        "key": key,
        "own_side": "add" if adds else "subtract",
        "peer_side": "subtract" if adds else "add",
    }


def _self_mask_key(case: Case) -> Case:
    return {"key": crypto.self_mask_key(case["seed"], case["session_id"], case["client_id"])}


def _channel_keys(case: Case) -> Case:
    low, high = case["low_secret_key"], case["high_secret_key"]
    low_id, high_id, session = case["low_id"], case["high_id"], case["session_id"]
    publics = crypto.x25519_public(low), crypto.x25519_public(high)
    up = crypto.channel_key(low, publics[1], session, low_id, high_id, low_id)
    expect("the other side's key", crypto.channel_key(high, publics[0], session, high_id, low_id, low_id), up)
    return {
        "low_secret_key": crypto.clamp(low),
        "low_public_key": publics[0],
        "high_secret_key": crypto.clamp(high),
        "high_public_key": publics[1],
        "low_to_high": up,
        "high_to_low": crypto.channel_key(high, publics[0], session, high_id, low_id, high_id),
    }


def _encrypted_shares(case: Case) -> Case:
    plaintext = sharing.pack_shares([*case["mask_key_share"], *case["self_mask_share"]])
    bound = crypto.share_data(case["session_id"], case["sender"], case["receiver"])
    ciphertext = crypto.seal(case["key"], plaintext, bound)
    expect("opened", crypto.unseal(case["key"], ciphertext, bound), plaintext)
    return {"plaintext": plaintext, "associated_data": bound, "ciphertext": ciphertext}


def _seed_commitment(case: Case) -> Case:
    return {"commitment": crypto.seed_commitment(case["seed"], case["session_id"], case["client_id"])}


def _mask_generator(case: Case) -> Case:
    data = crypto.keystream(case["key"], 3 * crypto.CHUNK)
    at = crypto.CHUNK
    return {
        "chunk_0": data[:48],
        "chunk_1": data[at : at + 48],
        "chunk_2": data[2 * at : 2 * at + 48],
        "around_first_boundary": data[at - 16 : at + 16],
        "first_300000_sha256": crypto.sha256(data[:300_000]),
        "first_786432_sha256": crypto.sha256(data),
    }


def _mask(case: Case) -> Case:
    elements = crypto.mask(case["key"], case["length"], case["ring_bits"])
    if "elements" in case:
        return {"elements": elements}
    size = crypto.word_bytes(case["ring_bits"])
    return {"words_sha256": crypto.sha256(b"".join(element.to_bytes(size, "little") for element in elements))}


def _seed_limbs(case: Case) -> Case:
    expect("the seed of the limbs", sharing.seed_of(case["limbs"]), case["seed"])
    return {"limbs": sharing.limbs_of(case["seed"])}


def _sharing_coefficients(case: Case) -> Case:
    session, client_id, threshold = case["session_id"], case["client_id"], case["threshold"]
    key = crypto.hkdf(case["sharing_seed"], session, "sharing coefficients", crypto.be32(client_id), 16)
    stream = crypto.keystream(key, 36 * (threshold - 1))
    words = [int.from_bytes(stream[at : at + 2], "big") for at in range(0, len(stream), 2)]
    return {
        "key": key,
        "refused_words": [word for word in words if word >= sharing.P],
        "coefficients": sharing.coefficients(case["sharing_seed"], session, client_id, threshold),
    }


def _shamir(case: Case) -> Case:
    limbs, rows = sharing.limbs_of(case["seed"]), case["coefficients"]
    places = [shown["place"] for shown in case["shares"]]
    shares = [{"place": place, "share": sharing.shares_at(place, limbs, rows)} for place in places]
    known = {shown["place"]: shown["share"] for shown in case["shares"]}
    chosen = case["reconstruct_from"]
    expect("how many shares", len(chosen), case["threshold"])
    expect("the coefficients", len(rows), case["threshold"] - 1)
    return {"shares": shares, "seed": sharing.seed_from([(place, known[place]) for place in chosen])}


def _error_positions(case: Case) -> Case:
    points = list(zip(case["points"], case["values"], strict=True))
    return {"wrong": sharing.wrong_values(points, case["threshold"])}


def _packing(case: Case) -> Case:
    elements, ring_bits = case["elements"], case["ring_bits"]
    return {
        "packed": wire.pack_vector(elements, ring_bits),
        "elements": wire.unpack_vector(case["packed"], len(elements), ring_bits),
    }


def _statements(case: Case) -> Case:
    session, members = case["session_id"], []
    for entry in case["members"]:
        keys = (entry["channel_public_key"], entry["mask_public_key"])
        signed = crypto.advertised_statement(session, entry["client_id"], *keys)
        expect("advertised keys", entry["advertised_keys_statement"], signed)
        digest = crypto.member_keys(session, entry["client_id"], entry["identity_key"], *keys)
        expect("member keys", entry["member_keys"], digest)
        members.append(crypto.member(digest, entry["standing"]))
        expect("member", entry["member"], members[-1])
    digest = crypto.view_digest(session, members)
    return {"view_digest": digest, "view_statement": crypto.view_statement(session, case["signer_id"], digest)}


def _signature(case: Case) -> Case:
    computed: Case = {"valid": crypto.ed25519_verify(case["public_key"], case["statement"], case["signature"])}
    if "secret_key" in case:
        computed["public_key"] = crypto.ed25519_public(case["secret_key"])
        computed["signature"] = crypto.ed25519_sign(case["secret_key"], case["statement"])
    return computed


def _x25519_key(case: Case) -> Case:
    computed: Case = {"accepted": crypto.x25519_accepted(case["public_key"])}
    if "secret_key" in case:
        computed["clamped_secret_key"] = crypto.clamp(case["secret_key"])
        computed["public_key"] = crypto.x25519_public(case["secret_key"])
        expect("the clamped key's", crypto.x25519_public(case["clamped_secret_key"]), case["public_key"])
    return computed


def _ed25519_key(case: Case) -> Case:
    return {"accepted": crypto.ed25519_accepted(case["public_key"])}


def _noise_seeds(case: Case) -> Case:
    session, client_id = case["session_id"], case["client_id"]
    seeds = noise.seeds(case["noise_seed"], session, client_id, len(case["seeds"]))
    return {
        "seeds": [seed.hex() for seed in seeds],
        "commitments": [noise.commitment(seed, session, client_id, at).hex() for at, seed in enumerate(seeds, 1)],
        "keys": [noise.key(seed, session, client_id, at).hex() for at, seed in enumerate(seeds, 1)],
    }


def _noise_pad_keys(case: Case) -> Case:
    low, high = case["low_secret_key"], case["high_secret_key"]
    low_id, high_id, session = case["low_id"], case["high_id"], case["session_id"]
    publics = crypto.x25519_public(low), crypto.x25519_public(high)
    of_low = noise.pad_key(low, publics[1], session, low_id, high_id, low_id)
    expect("the other side's key", noise.pad_key(high, publics[0], session, high_id, low_id, low_id), of_low)
    return {
        "seeds_of_low": of_low,
        "seeds_of_high": noise.pad_key(high, publics[0], session, high_id, low_id, high_id),
        "own_of_low": noise.own_pad_key(case["low_sharing_seed"], session, low_id),
    }


def _noise_shares(case: Case) -> Case:
    pads = [noise.pads(key, len(case["seeds"])) for key in case["pad_keys"]]
    return {"pads": pads, "corrections": noise.corrections(case["seeds"], pads, case["threshold"])}


def _removed_components(case: Case) -> Case:
    survivors = [entry["survivors"] for entry in case["removed"]]
    return {"removed": [{"survivors": count, "components": noise.removed(case, count)} for count in survivors]}


CHECKS: dict[str, Callable[[Case], Case]] = {
    "session_id": _session_id,
    "mask_key_pair": _mask_key_pair,
    "pairwise_mask_key": _pairwise_mask_key,
    "self_mask_key": _self_mask_key,
    "channel_keys": _channel_keys,
    "encrypted_shares": _encrypted_shares,
    "seed_commitment": _seed_commitment,
    "mask_generator": _mask_generator,
    "mask": _mask,
    "seed_limbs": _seed_limbs,
    "sharing_coefficients": _sharing_coefficients,
    "shamir": _shamir,
    "error_positions": _error_positions,
    "packing": _packing,
    "statements": _statements,
    "signatures": _signature,
    "x25519_keys": _x25519_key,
    "ed25519_keys": _ed25519_key,
    "noise_seeds": _noise_seeds,
    "noise_pad_keys": _noise_pad_keys,
    "noise_shares": _noise_shares,
    "removed_components": _removed_components,
}
