"""The server, computed from its received messages."""

from functools import partial
from typing import Any

from . import crypto, noise, sharing
from .client import split
from .errors import Mismatch, expect
from .wire import Fields

Outgoing = dict[int, tuple[str, Fields]]
Drops = list[tuple[int, str]]


def ring_order(entropy: bytes) -> list[int]:
    """Return the nodes on a ring, in the order of 64 random little-endian bits each."""
    numbers = [int.from_bytes(number, "little") for number in split(entropy, 8)]
    return sorted(range(len(numbers)), key=numbers.__getitem__)


class Server:
    """Collects each round's messages, and opens the next."""

    def __init__(
        self, params: dict[str, Any], session: bytes, ids: list[int], identities: dict[int, bytes], entropy: bytes
    ) -> None:
        self._params, self._session, self._identities, self._entropy = params, session, identities, entropy
        self._complete = params["degree"] == params["num_clients"] - 1
        self._quorum = params["threshold"] + (0 if self._complete else 1)
        self._invited = sorted(ids)
        self._received: dict[int, Fields] = {}
        self._messages: dict[str, dict[int, Fields]] = {}

    # --- Rounds ------------------------------------------------------------------------------------------------------

    def open_round(self, name: str) -> Outgoing:
        """Return the messages that open a round, for the clients in it."""
        self._received = {}
        opening = {
            "AdvertiseKeys": lambda client_id: None,
            "ShareKeys": self._peer_keys,
            "MaskedInputCollection": self._peer_shares,
            "ConsistencyCheck": self._survivor_list,
            "Unmasking": self._proof if self._identities else self._survivor_list,
        }[name]
        made = {client_id: opening(client_id) for client_id in self._invited}
        return {client_id: message for client_id, message in made.items() if message is not None}

    def receive(self, client_id: int, kind: str, fields: Fields) -> None:
        """Take a message; in these sessions all are well-formed."""
        expect("session id of a message", fields["session_id"], self._session)
        if kind == "AdvertiseKeys" and self._identities:
            expect("a pinned identity", fields["identity_key"], self._identities[client_id])
            statement = crypto.advertised_statement(
                self._session, client_id, fields["channel_public_key"], fields["mask_public_key"]
            )
            self._check_signature(client_id, statement, fields["signature"])
        if kind == "ConsistencyCheck":
            digest = crypto.view_digest(self._session, [self._member(peer) for peer in self._around[client_id]])
            statement = crypto.view_statement(self._session, client_id, digest)
            self._check_signature(client_id, statement, fields["signature"])
        self._received[client_id] = fields

    def _check_signature(self, client_id: int, statement: bytes, signature: bytes) -> None:
        expect("a signature", crypto.ed25519_verify(self._identities[client_id], statement, signature), True)

    def close_round(self, name: str) -> Drops:
        """Return the dropped clients; decide which clients are in the next round."""
        self._messages[name] = dict(self._received)
        came = sorted(self._received)
        drops = [(client_id, "DEADLINE") for client_id in self._invited if client_id not in self._received]
        able = came
        if name == "AdvertiseKeys":
            self._advertised = came
            self._around = self._neighborhoods(came)
        elif name == "ShareKeys":
            # A client with too few left around it is dropped, and then others may be.
            while (left := self._with_quorum(able, able)) != able:
                able = left
            self._shared = able
        elif name == "MaskedInputCollection":
            self._survivors = came
            able = self._with_quorum(came, came)
        elif name == "ConsistencyCheck":
            self._signed = came
            able = self._with_quorum(came, came)
        self._invited = able
        return drops + [(client_id, "TOO_FEW_NEIGHBORS") for client_id in came if client_id not in able]

    def _neighborhoods(self, ids: list[int]) -> dict[int, list[int]]:
        """Return each client's neighbours and itself, ascending."""
        degree = self._params["degree"]
        if len(ids) <= degree + 1:
            expect("graph entropy", self._entropy, b"")
            return dict.fromkeys(ids, ids)
        order = ring_order(self._entropy)
        expect("clients in the graph", len(order), len(ids))
        around = {}
        for at, node in enumerate(order):
            near = [order[(at + step) % len(order)] for step in range(-(degree // 2), degree // 2 + 1)]
            around[ids[node]] = [ids[other] for other in sorted(near)]
        return around

    def _with_quorum(self, candidates: list[int], present: list[int]) -> list[int]:
        return [i for i in candidates if len(set(self._around[i]) & set(present)) >= self._quorum]

    # --- Messages ----------------------------------------------------------------------------------------------------

    def _flags(self, client_id: int, flagged: list[int]) -> str:
        return "".join("1" if peer in flagged else "0" for peer in self._around[client_id])

    def _peer_keys(self, client_id: int) -> tuple[str, Fields]:
        around, keys = self._around[client_id], self._messages["AdvertiseKeys"]
        names = {
            "channel_public_keys": "channel_public_key",
            "mask_public_keys": "mask_public_key",
            "identity_keys": "identity_key",
            "signatures": "signature",
        }
        joined = {many: b"".join(keys[peer][one] for peer in around) for many, one in names.items()}
        return "PeerKeys", {"session_id": self._session, "client_ids": around, **joined}

    def _peer_shares(self, client_id: int) -> tuple[str, Fields]:
        items = []
        for peer in self._around[client_id]:
            if peer in self._shared and peer != client_id:
                receivers = [other for other in self._around[peer] if other != peer]
                ciphertexts = split(self._messages["ShareKeys"][peer]["encrypted_shares"], 52)
                items.append(ciphertexts[receivers.index(client_id)])
        flags = self._flags(client_id, self._shared)
        return "PeerShares", {"session_id": self._session, "shared": flags, "encrypted_shares": b"".join(items)}

    def _survivor_list(self, client_id: int) -> tuple[str, Fields]:
        return "SurvivorList", {"session_id": self._session, "survivors": self._flags(client_id, self._survivors)}

    def _proof(self, client_id: int) -> tuple[str, Fields]:
        around = self._around[client_id]
        signatures, common, others = b"", b"", b""
        for peer in around:
            if peer == client_id or peer not in self._signed:
                continue
            signatures += self._messages["ConsistencyCheck"][peer]["signature"]
            if not self._complete:
                shared_places = [place for place, other in enumerate(around) if other in self._around[peer]]
                bits = sum(1 << place for place in shared_places)
                common += bits.to_bytes((len(around) + 7) // 8, "little")
                others += b"".join(self._member(other) for other in self._around[peer] if other not in around)
        fields = {"consistent": self._flags(client_id, self._signed), "signatures": signatures}
        return "ConsistencyProof", {"session_id": self._session, **fields, "common": common, "others": others}

    def _member(self, client_id: int) -> bytes:
        keys = self._messages["AdvertiseKeys"][client_id]
        names = ("identity_key", "channel_public_key", "mask_public_key")
        digest = crypto.member_keys(self._session, client_id, *(keys[name] for name in names))
        return crypto.member(digest, (client_id in self._shared) + (client_id in self._survivors))

    # --- The end -----------------------------------------------------------------------------------------------------

    def outcome(self) -> dict[str, Any]:
        """Return the secrets from the shares, and the sum without its masks."""
        owners = [i for i in self._shared if i in self._survivors or set(self._around[i]) & set(self._survivors)]
        seeds, disputes = {}, self._unopened()
        for owner in owners:
            shares = self._shares_of(owner)
            recovered = sharing.recover(shares, self._params["threshold"], partial(self._is_secret, owner))
            if recovered is None:
                raise Mismatch(f"the shares of client {owner} do not give its secret")
            seeds[owner], wrong = recovered
            disputes += [(owner, self._around[owner][place], "WRONG") for place in wrong]
        noise_keys, of_noise = self._noise()
        disputes = sorted({*disputes, *of_noise})
        inputs = {i: fields["masked_input"] for i, fields in self._messages["MaskedInputCollection"].items()}
        masked = self._total(list(inputs.values()))
        left = self._total([masked, *self._masks(seeds)])
        named = ("owner", "holder", "fault")
        return {
            "survivors": self._survivors,
            "disputes": [dict(zip(named, dispute, strict=True)) for dispute in sorted(disputes)],
            # Each dispute here is between two listed clients; for a wrong share the holder is named first.
            "culprits": sorted({holder if fault == "WRONG" else owner for owner, holder, fault in disputes}),
            "self_mask_seeds": self._listed(seeds, survive=True),
            "mask_key_seeds": self._listed(seeds, survive=False),
            "partial_sums": [
                {"client_ids": part, "sum": self._total([inputs[i] for i in part])}
                for part in (self._survivors[::2], self._survivors[1::2])
            ],
            "masked_sum": masked,
            "sum": left,
            "noise_keys": noise_keys,
        }

    def _listed(self, seeds: dict[int, bytes], *, survive: bool) -> list[dict[str, Any]]:
        return [
            {"client_id": owner, "seed": seed.hex()}
            for owner, seed in seeds.items()
            if (owner in self._survivors) == survive
        ]

    def _total(self, vectors: list[list[int]]) -> list[int]:
        return [sum(column) % 2 ** self._params["ring_bits"] for column in zip(*vectors, strict=True)]

    def _unopened(self) -> list[tuple[int, int, str]]:
        return [
            (owner, holder, "MISSING")
            for holder, fields in self._messages["Unmasking"].items()
            for owner, held in zip(self._around[holder], fields["held"], strict=True)
            if held == "0" and owner in self._shared and owner != holder
        ]

    def _shares_of(self, owner: int) -> dict[int, list[int]]:
        """Return shares by the holder's place in the owner's neighbourhood."""
        shares: dict[int, list[int]] = {}
        for holder, fields in self._messages["Unmasking"].items():
            if owner in self._around[holder]:
                at = self._around[holder].index(owner)
                if fields["held"][at] == "1":
                    shares[self._around[owner].index(holder)] = fields["shares"][fields["held"][:at].count("1")]
        return shares

    def _noise(self) -> tuple[list[dict[str, Any]], list[tuple[int, int, str]]]:
        """Return the keys of the components that the sum does not need, and the disputes about their shares."""
        listed, disputes = [], []
        removed = noise.removed(self._params, len(self._survivors))
        for at, component in enumerate(removed):
            keys = []
            for owner in self._survivors:
                expected = split(self._messages["ShareKeys"][owner]["noise_commitments"], 32)[component - 1]

                def fits(seed: bytes, owner: int = owner, expected: bytes = expected, at: int = component) -> bool:
                    return noise.commitment(seed, self._session, owner, at) == expected

                shares = self._noise_shares(owner, at, len(removed), component)
                recovered = sharing.recover(shares, self._params["threshold"], fits)
                if recovered is None:
                    raise Mismatch(f"the shares of component {component} of client {owner} do not give its seed")
                seed, wrong = recovered
                disputes += [(owner, self._around[owner][place], "WRONG") for place in wrong]
                keys.append({"client_id": owner, "key": noise.key(seed, self._session, owner, component).hex()})
            listed.append({"component": component, "keys": keys})
        return listed, disputes

    def _noise_shares(self, owner: int, at: int, count: int, component: int) -> dict[int, list[int]]:
        """Return the shares of a component's seed, the ``at``-th of ``count``, by the holders' places."""
        shares: dict[int, list[int]] = {}
        corrections = split(self._messages["ShareKeys"][owner]["noise_corrections"], 18)
        for holder, fields in self._messages["Unmasking"].items():
            around = self._around[holder]
            held = [i for i, flag in zip(around, fields["held"], strict=True) if flag == "1" and i in self._survivors]
            if owner not in held:
                continue
            pad = sharing.unpack_shares(split(fields["noise_pads"], 18)[held.index(owner) * count + at]) or []
            place = around.index(holder)
            first = place - self._params["threshold"] + 1
            if first >= 0:
                more = corrections[first * self._params["noise_components"] + component - 1]
                pad = [(a + b) % sharing.P for a, b in zip(pad, sharing.unpack_shares(more) or [], strict=True)]
            shares[place] = pad
        return shares

    def _is_secret(self, owner: int, seed: bytes) -> bool:
        if owner in self._survivors:
            commitment: bytes = self._messages["ShareKeys"][owner]["seed_commitment"]
            return crypto.seed_commitment(seed, self._session, owner) == commitment
        public_key: bytes = self._messages["AdvertiseKeys"][owner]["mask_public_key"]
        return crypto.x25519_public(crypto.mask_secret_key(seed, self._session, owner)) == public_key

    def _handed_over(self, peer: int, owner: int) -> bytes | None:
        """Return the key of a mask with a vanished client; None if the survivor did not answer, or hands over none."""
        answers = self._messages["Unmasking"]
        if peer not in answers or not (self._complete or not self._identities):
            return None
        vanished = [i for i in self._around[peer] if i in self._shared and i not in self._survivors]
        return split(answers[peer]["pairwise_keys"], 16)[vanished.index(owner)]

    def _masks(self, seeds: dict[int, bytes]) -> list[list[int]]:
        """Return the vector to add so that the masks are removed."""
        length, ring_bits = self._params["vector_length"], self._params["ring_bits"]
        masks = []
        for owner, seed in seeds.items():
            if owner in self._survivors:
                expanded = crypto.mask(crypto.self_mask_key(seed, self._session, owner), length, ring_bits)
                masks.append([-element for element in expanded])
                continue
            secret = crypto.mask_secret_key(seed, self._session, owner)
            for peer in self._around[owner]:
                if peer in self._survivors:
                    public_key = self._messages["AdvertiseKeys"][peer]["mask_public_key"]
                    key = crypto.pairwise_mask_key(secret, public_key, self._session, owner, peer)
                    expect("the key of a mask, handed over", self._handed_over(peer, owner) or key, key)
                    # The survivor's side is in the sum: the smaller id added it.
                    sign = -1 if peer < owner else 1
                    masks.append([sign * element for element in crypto.mask(key, length, ring_bits)])
        return masks
