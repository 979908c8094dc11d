"""A client, computed from its draws and received messages."""

from typing import Any

from . import crypto, noise, sharing
from .errors import Refused, refuse_if
from .wire import Fields


def split(items: bytes, size: int) -> list[bytes]:
    """Return concatenated items of one size as a list."""
    return [items[at : at + size] for at in range(0, len(items), size)]


class Client:
    """One client; ``answer`` is the message that it would send next."""

    def __init__(
        self,
        params: dict[str, Any],
        session: bytes,
        entry: dict[str, Any],
        draws: dict[str, bytes],
        identities: dict[int, bytes],
    ) -> None:
        self._params, self._session, self._id = params, session, entry["client_id"]
        self._input: list[int] = entry["input"]
        self._draws = draws
        self._identities = identities
        self._identity = b""
        if identities:
            # In semi-malicious mode it is drawn with the rest.
            drawn = draws.get("identity_secret_key")
            self._identity = bytes.fromhex(entry["identity_secret_key"]) if drawn is None else drawn
        self._mask_secret = crypto.mask_secret_key(draws["mask_key_seed"], session, self._id)
        keys = (crypto.x25519_public(draws["channel_secret_key"]), crypto.x25519_public(self._mask_secret))
        statement = crypto.advertised_statement(session, self._id, *keys)
        fields = {
            "session_id": session,
            "channel_public_key": keys[0],
            "mask_public_key": keys[1],
            "identity_key": identities.get(self._id, b""),
            "signature": crypto.ed25519_sign(self._identity, statement) if identities else b"",
        }
        self.answer: tuple[str, Fields] | None = ("AdvertiseKeys", fields)
        self._awaited = "PeerKeys"
        self._own_keys = keys
        self._complete = params["degree"] == params["num_clients"] - 1
        self._quorum = params["threshold"] + (0 if self._complete else 1)

    def receive(self, kind: str, fields: Fields) -> list[int] | None:
        """Take a message of the server; return the peers whose shares could not be opened, if there were shares.

        Raises Refused, naming the rule, in the order of docs/protocol.md.
        """
        refuse_if(fields["session_id"] != self._session, "WRONG_SESSION")
        if kind != self._awaited:
            answered = self._awaited in ("ConsistencyProof", "nothing")
            if kind == "SurvivorList" and answered:
                refuse_if(fields["survivors"] != self._survivors, "SURVIVORS_CHANGED")
            again = kind == "SurvivorList" or (kind == "ConsistencyProof" and bool(self._identities))
            refuse_if(again and answered, "REPEATED_REQUEST")
            refuse_if(True, "UNEXPECTED_MESSAGE")
        handler = {
            "PeerKeys": self._on_keys,
            "PeerShares": self._on_shares,
            "SurvivorList": self._on_survivors,
            "ConsistencyProof": self._on_proof,
        }[kind]
        return handler(fields)

    def _on_keys(self, fields: Fields) -> None:
        self._ids: list[int] = fields["client_ids"]
        refuse_if(self._id not in self._ids, "SELF_MISSING")
        self._place = self._ids.index(self._id)
        self._channel_keys = split(fields["channel_public_keys"], 32)
        self._mask_keys = split(fields["mask_public_keys"], 32)
        self._check_keys(fields)
        rows = sharing.coefficients(self._draws["sharing_seed"], self._session, self._id, self._params["threshold"])
        secrets = sharing.limbs_of(self._draws["mask_key_seed"]) + sharing.limbs_of(self._draws["self_mask_seed"])
        ciphertexts = []
        for place, peer in enumerate(self._ids):
            share = sharing.shares_at(place, secrets, rows)
            if peer == self._id:
                self._own_share = share
                continue
            bound = crypto.share_data(self._session, self._id, peer)
            ciphertexts.append(crypto.seal(self._key(place, self._id), sharing.pack_shares(share), bound))
        commitment = crypto.seed_commitment(self._draws["self_mask_seed"], self._session, self._id)
        commitments, corrections = self._share_noise()
        self._reply(
            "ShareKeys",
            seed_commitment=commitment,
            encrypted_shares=b"".join(ciphertexts),
            noise_commitments=commitments,
            noise_corrections=corrections,
        )

    def _pads(self, place: int, owner: int) -> noise.Pads:
        """Return the pads of the client in a place for an owner's seeds; one of the two is this client."""
        if self._ids[place] == self._id == owner:
            key = noise.own_pad_key(self._draws["sharing_seed"], self._session, self._id)
        else:
            other = place if owner == self._id else self._ids.index(owner)
            secret, public = self._draws["channel_secret_key"], self._channel_keys[other]
            key = noise.pad_key(secret, public, self._session, self._id, self._ids[other], owner)
        return noise.pads(key, self._params["noise_components"])

    def _share_noise(self) -> tuple[bytes, bytes]:
        components = self._params["noise_components"]
        if not components:
            return b"", b""
        seeds = noise.seeds(self._draws["noise_seed"], self._session, self._id, components)
        commitments = [noise.commitment(seed, self._session, self._id, at) for at, seed in enumerate(seeds, 1)]
        pads = [self._pads(place, self._id) for place in range(len(self._ids))]
        return b"".join(commitments), noise.packed(noise.corrections(seeds, pads, self._params["threshold"]))

    def _check_keys(self, fields: Fields) -> None:
        refuse_if(len(self._ids) < self._quorum, "TOO_FEW_PEERS")
        pairs = list(zip(self._channel_keys, self._mask_keys, strict=True))
        refuse_if(pairs[self._place] != self._own_keys, "KEYS_OF_SELF_CHANGED")
        refuse_if(len({*self._channel_keys, *self._mask_keys}) != 2 * len(self._ids), "KEYS_NOT_DISTINCT")
        listed = list(zip(self._ids, pairs, strict=True))
        refuse_if([i for i, pair in listed if not all(map(crypto.x25519_accepted, pair))], "INVALID_PUBLIC_KEY")
        if not self._identities:
            return
        identity_keys = split(fields["identity_keys"], 32)
        refuse_if(identity_keys[self._place] != self._identities[self._id], "KEYS_OF_SELF_CHANGED")
        refuse_if(len(set(identity_keys)) != len(self._ids), "IDENTITY_NOT_DISTINCT")
        signed = zip(listed, identity_keys, split(fields["signatures"], 64), strict=True)
        unsigned = [
            peer
            for (peer, pair), key, signature in signed
            if not crypto.ed25519_verify(key, crypto.advertised_statement(self._session, peer, *pair), signature)
        ]
        refuse_if(unsigned, "INVALID_SIGNATURE")
        strangers = [i for i, key in zip(self._ids, identity_keys, strict=True) if key != self._identities[i]]
        refuse_if(strangers, "IDENTITY_NOT_TRUSTED")
        self._member_keys = [
            crypto.member_keys(self._session, peer, key, *pair)
            for (peer, pair), key in zip(listed, identity_keys, strict=True)
        ]

    def _check_flags(self, flags: str) -> None:
        refuse_if(len(flags) != len(self._ids), "WRONG_SIZE")
        refuse_if(flags[self._place] == "0", "SELF_MISSING")
        refuse_if(flags.count("1") < self._quorum, "TOO_FEW_PEERS")

    def _outside(self, flags: str, allowed: str) -> list[int]:
        """Return the flagged clients that are not among the allowed."""
        return [i for i, flag, fine in zip(self._ids, flags, allowed, strict=True) if flag > fine]

    def _key(self, place: int, sender: int) -> bytes:
        secret = self._draws["channel_secret_key"]
        peer = self._ids[place]
        return crypto.channel_key(secret, self._channel_keys[place], self._session, self._id, peer, sender)

    def _on_shares(self, fields: Fields) -> list[int]:
        self._shared = fields["shared"]
        self._check_flags(self._shared)
        refuse_if(len(fields["encrypted_shares"]) != 52 * (self._shared.count("1") - 1), "WRONG_SIZE")
        ciphertexts = split(fields["encrypted_shares"], 52)
        self._held: dict[int, list[int]] = {}
        rejected = []
        for place, peer in enumerate(self._ids):
            if peer == self._id:
                # In the complete graph a client also holds shares of its own secrets.
                if self._complete:
                    self._held[place] = self._own_share
            elif self._shared[place] == "1":
                bound = crypto.share_data(self._session, peer, self._id)
                opened = crypto.unseal(self._key(place, peer), ciphertexts.pop(0), bound)
                share = None if opened is None else sharing.unpack_shares(opened)
                if share is None:
                    rejected.append(peer)
                else:
                    self._held[place] = share
        if len(self._held) < self._params["threshold"]:
            raise Refused("TOO_FEW_VALID_SHARES", rejected)
        self._reply("MaskedInput", masked_input=self._masked())
        return rejected

    def _masked(self) -> list[int]:
        length, ring_bits = self._params["vector_length"], self._params["ring_bits"]
        key = crypto.self_mask_key(self._draws["self_mask_seed"], self._session, self._id)
        terms = [self._input, crypto.mask(key, length, ring_bits)]
        for place, peer in enumerate(self._ids):
            if peer != self._id and self._shared[place] == "1":
                key = crypto.pairwise_mask_key(self._mask_secret, self._mask_keys[place], self._session, self._id, peer)
                sign = 1 if self._id < peer else -1
                terms.append([sign * element for element in crypto.mask(key, length, ring_bits)])
        return [sum(column) % 2**ring_bits for column in zip(*terms, strict=True)]

    def _on_survivors(self, fields: Fields) -> None:
        self._survivors = fields["survivors"]
        self._check_flags(self._survivors)
        refuse_if(bool(self._outside(self._survivors, self._shared)), "SURVIVORS_NOT_SUBSET")
        if not self._identities:
            self._release()
            return
        standings = [int(shared) + int(left) for shared, left in zip(self._shared, self._survivors, strict=True)]
        self._members = [crypto.member(keys, s) for keys, s in zip(self._member_keys, standings, strict=True)]
        digest = crypto.view_digest(self._session, self._members)
        statement = crypto.view_statement(self._session, self._id, digest)
        self._reply("ConsistencyCheck", signature=crypto.ed25519_sign(self._identity, statement))

    def _on_proof(self, fields: Fields) -> None:
        consistent = fields["consistent"]
        self._check_flags(consistent)
        refuse_if(self._outside(consistent, self._survivors), "CONSISTENT_NOT_SUBSET")
        signers = [peer for peer, flag in zip(self._ids, consistent, strict=True) if flag == "1" and peer != self._id]
        signatures = split(fields["signatures"], 64)
        refuse_if(len(signatures) != len(signers), "WRONG_SIZE")
        valid = 1
        for signer, signature, members in zip(signers, signatures, self._views(fields, signers), strict=True):
            statement = crypto.view_statement(self._session, signer, crypto.view_digest(self._session, members))
            valid += crypto.ed25519_verify(self._identities[signer], statement, signature)
        refuse_if(valid < self._quorum, "TOO_FEW_SIGNATURES")
        self._release()

    def _views(self, fields: Fields, signers: list[int]) -> list[list[bytes]]:
        """Return the members that each signer must have seen."""
        if self._complete:
            return [self._members] * len(signers)
        common, others = split(fields["common"], (len(self._ids) + 7) // 8), split(fields["others"], 32)
        refuse_if(len(common) != len(signers), "WRONG_SIZE")
        # No client that this client knows may come as one that only the signer knows; and the signer's view has this
        # client and the signer itself, both with the keys that this client knows.
        known = {crypto.member(keys, standing) for keys in self._member_keys for standing in range(3)}
        refuse_if(not known.isdisjoint(others), "VIEWS_CONTRADICT")
        views = []
        for signer, flags in zip(signers, common, strict=True):
            bits = int.from_bytes(flags, "little")
            refuse_if(not bits >> self._place & 1, "VIEWS_CONTRADICT")
            refuse_if(not bits >> self._ids.index(signer) & 1, "VIEWS_CONTRADICT")
            members = [member for place, member in enumerate(self._members) if bits >> place & 1]
            more = len(self._ids) - len(members)
            refuse_if(bits >> len(self._ids) > 0 or more > len(others), "WRONG_SIZE")
            views.append(members + others[:more])
            others = others[more:]
        refuse_if(bool(others), "WRONG_SIZE")
        return views

    def _release(self) -> None:
        held = "".join("1" if place in self._held else "0" for place in range(len(self._ids)))
        shares = [
            share[9:] if self._survivors[place] == "1" else share[:9] for place, share in sorted(self._held.items())
        ]
        # On a sparse graph in the signed modes no keys are handed over.
        hand_over = self._complete or not self._identities
        keys = [
            crypto.pairwise_mask_key(self._mask_secret, self._mask_keys[place], self._session, self._id, peer)
            for place, peer in enumerate(self._ids)
            if hand_over and self._shared[place] > self._survivors[place]
        ]
        removed = noise.removed(self._params, self._survivors.count("1"))
        pads = b""
        for place in sorted(self._held):
            if self._survivors[place] == "1" and removed:
                own = self._pads(self._place, self._ids[place])
                pads += b"".join(sharing.pack_shares(own[component - 1]) for component in removed)
        self._reply("UnmaskingShares", held=held, shares=shares, pairwise_keys=b"".join(keys), noise_pads=pads)

    def _reply(self, kind: str, **fields: Any) -> None:
        self.answer = (kind, {"session_id": self._session, **fields})
        following = {
            "ShareKeys": "PeerShares",
            "MaskedInput": "SurvivorList",
            "ConsistencyCheck": "ConsistencyProof",
            "UnmaskingShares": "nothing",
        }
        self._awaited = following[kind]
