"""The knowledge of the server and its corrupt clients: by reconstruction from all messages, not by argument.

It counts the shares of both secrets of each client, reconstructs every secret that it can, and solves for sums of
inputs: clients whose self-mask is known, joined by each unknown pairwise mask, give one sum for each component.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from secagg import noise, sharing
from secagg._client.neighborhood import split
from secagg.algebra import ring
from secagg.masking import Mask, accumulate, mask_secret_key, pairwise_mask, self_mask
from secagg.messages import AdvertiseKeys, MaskedInput, PeerKeys, PeerShares, ShareKeys, SurvivorList, UnmaskingShares
from secagg.primitives.agreement import KEY_BYTES, SecretKey
from tests.adversarial.adversary import LyingServer

MASK_KEY, SELF_MASK = 0, 1


@dataclass
class Knowledge:
    """All that follows from the messages that a `LyingServer` received.

    ``own_keys`` are mask keys that the server made itself and passed off as a client's.
    """

    server: LyingServer
    own_keys: list[SecretKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shares: dict[int, tuple[dict, dict]] = {client_id: ({}, {}) for client_id in self.server.honest}
        # Keys of pairwise masks that were handed over, by their names.
        self.pairwise_keys: dict[frozenset, bytes] = {}
        # By component: the shares of its seed by the holders' places.
        self.noise: dict[int, dict[int, dict]] = {client_id: defaultdict(dict) for client_id in self.server.honest}
        for holder in self.server.sent.get(UnmaskingShares, {}):
            self._take_released(holder)
        for holder in self.server.corrupt:
            self._take_corrupt(holder)
        self.seeds = {owner: (self._seed(owner, MASK_KEY), self._seed(owner, SELF_MASK)) for owner in self.shares}
        # Secret mask keys by public key: one end of a pairwise mask suffices to compute the mask.
        self._secret_keys = {key.public_key(): key for key in self.own_keys}
        for client_id in self.server.inputs:
            if client_id in self.server.corrupt:
                seed: bytes | None = self.server.entropy[client_id].draws[1]
            elif (seed := self.seeds[client_id][MASK_KEY]) is None:
                continue
            key = mask_secret_key(seed, self.server.session_id, client_id)
            self._secret_keys[key.public_key()] = key

    def _listed(self, client_id: int) -> tuple[int, ...]:
        return self.server.told[PeerKeys][client_id].client_ids

    def _take(self, owner: int, holder: int, kind: int, share: np.ndarray) -> None:
        if owner in self.shares and owner in self.server.told.get(PeerKeys, {}) and holder in self._listed(owner):
            self.shares[owner][kind][self._listed(owner).index(holder)] = share

    def _take_released(self, holder: int) -> None:
        message = self.server.sent[UnmaskingShares][holder]
        survivors = self.server.told[SurvivorList][holder].survivors
        shares = iter(message.shares)
        removed = noise.removed_components(self.server.params, sum(survivors))
        pads = iter(split(message.noise_pads, sharing.SHARE_BYTES))
        for owner, held, survives in zip(self._listed(holder), message.held, survivors, strict=True):
            if held:
                self._take(owner, holder, SELF_MASK if survives else MASK_KEY, next(shares))
                for component in removed if survives else ():
                    self._take_pad(owner, holder, component, sharing.shares_from_bytes(next(pads))[0])
        keys = self.server.told[PeerKeys][holder]
        shared = self.server.told[PeerShares][holder].shared
        vanished = [
            self._pair(holder, peer_id, peer_key)
            for peer_id, peer_key, has_shared, survives in zip(
                keys.client_ids, split(keys.mask_public_keys, KEY_BYTES), shared, survivors, strict=True
            )
            if has_shared and not survives
        ]
        if holder in self.server.honest and message.pairwise_keys:
            self.pairwise_keys.update(zip(vanished, split(message.pairwise_keys, 16), strict=True))

    def _pair(self, owner: int, peer_id: int, peer_key: bytes) -> frozenset:
        """Return the name of a client's mask with a peer: both ends, as told."""
        return frozenset(((owner, self.server.sent[AdvertiseKeys][owner].mask_public_key), (peer_id, peer_key)))

    def _take_pad(self, owner: int, holder: int, component: int, pad: np.ndarray) -> None:
        """Add what the owner sent for the holder's place to a pad: the share of a noise component's seed."""
        if owner not in self.noise or holder not in self._listed(owner):
            return
        place, params = self._listed(owner).index(holder), self.server.params
        at = (place - params.threshold + 1) * params.noise_components + component - 1
        if place >= params.threshold - 1:
            corrections = sharing.shares_from_bytes(self.server.sent[ShareKeys][owner].noise_corrections)
            pad = noise.add(pad, corrections[at])
        self.noise[owner][component][place] = pad

    def noise_counts(self, owner: int) -> list[int]:
        """Return how many shares of the seed of each component of a client's noise are known."""
        return [len(self.noise[owner][component]) for component in range(1, self.server.params.noise_components + 1)]

    def _take_corrupt(self, holder: int) -> None:
        """Let a corrupt client open both shares in each message that it got."""
        session_id = self.server.session_id
        if not self.server.entropy[holder].draws:
            return
        key = SecretKey(self.server.entropy[holder].draws[0])
        for owner, message in self.server.sent.get(ShareKeys, {}).items():
            peers = [peer_id for peer_id in self._listed(owner) if peer_id != owner]
            if owner in self.shares and holder in peers:
                public_key = self.server.sent[AdvertiseKeys][owner].channel_public_key
                channel = sharing.ShareChannel.agree(key, public_key, session_id, holder, owner, with_pads=True)
                for component, pad in enumerate(noise.pads(channel.pad_keys[1], self.server.params), 1):
                    self._take_pad(owner, holder, component, pad)
                item = split(message.encrypted_shares, sharing.ENCRYPTED_SHARES_BYTES)[peers.index(holder)]
                for kind, share in enumerate(sharing.open_shares(channel.receive_key, item, session_id, owner, holder)):
                    self._take(owner, holder, kind, share)

    def _seed(self, owner: int, kind: int) -> bytes | None:
        """Return the secret, if there are enough shares; the shares of honest clients must give the true secret."""
        shares, threshold = self.shares[owner][kind], self.server.params.threshold
        if len(shares) < threshold:
            return None
        places = sorted(shares)[:threshold]
        rows = np.stack([shares[place] for place in places])
        (seed,) = sharing.reconstruct_seeds(np.array(places), rows[:, None, :])
        assert seed == self.server.entropy[owner].draws[1 + kind], "this model of the adversary is wrong"
        return seed

    def counts(self, owner: int) -> tuple[int, int]:
        """Return how many shares of the client's mask key and of its self-mask seed are known."""
        return len(self.shares[owner][MASK_KEY]), len(self.shares[owner][SELF_MASK])

    def sums(self) -> dict[frozenset[int], np.ndarray]:
        """Return every set of honest clients whose sum can be computed, and that sum; no smaller sums follow."""
        masked = self.server.sent.get(MaskedInput, {})
        partial: dict[int, np.ndarray] = {}
        unknown: dict[int, set[frozenset]] = {}
        for owner, (_, seed) in self.seeds.items():
            if owner in masked and seed is not None:
                known, unknown[owner] = self._pairwise(owner)
                known.append(self_mask(seed, self.server.session_id, owner))
                partial[owner] = _without(masked[owner].masked_input, known, self.server.params.ring_bits)
        found = {}
        while unknown:
            component, edges = self._component(next(iter(unknown)), unknown)
            ends = [edge for owner in component for edge in unknown.pop(owner)]
            if all(ends.count(edge) == 2 for edge in edges):
                total = sum(
                    (partial[owner] for owner in component),
                    start=ring.zeros(len(partial[owner := next(iter(component))]), self.server.params.ring_bits),
                )
                ring.reduce_in_place(total, self.server.params.ring_bits)
                found[frozenset(component)] = total
        return found

    def _pairwise(self, owner: int) -> tuple[list[Mask], set[frozenset]]:
        """Return the known masks in an input, and the names of the unknown ones: both ends, as told."""
        keys = self.server.told[PeerKeys][owner]
        own_key = self.server.sent[AdvertiseKeys][owner].mask_public_key
        known: list[Mask] = []
        unknown: set[frozenset] = set()
        peers = zip(
            keys.client_ids,
            split(keys.mask_public_keys, KEY_BYTES),
            self.server.told[PeerShares][owner].shared,
            strict=True,
        )
        for peer_id, peer_key, shared in peers:
            if peer_id == owner or not shared:
                continue
            if peer_key in self._secret_keys:
                mask = pairwise_mask(self._secret_keys[peer_key], own_key, self.server.session_id, peer_id, owner)
                known.append(Mask(mask.key, subtract=not mask.subtract))
            elif own_key in self._secret_keys:
                secret_key = self._secret_keys[own_key]
                known.append(pairwise_mask(secret_key, peer_key, self.server.session_id, owner, peer_id))
            elif (pair := self._pair(owner, peer_id, peer_key)) in self.pairwise_keys:
                known.append(Mask(self.pairwise_keys[pair], subtract=owner > peer_id))
            else:
                unknown.add(pair)
        return known, unknown

    @staticmethod
    def _component(start: int, unknown: dict[int, set[frozenset]]) -> tuple[set[int], set[frozenset]]:
        component, edges = {start}, set(unknown[start])
        while more := {owner for owner, masks in unknown.items() if owner not in component and masks & edges}:
            component |= more
            edges.update(*(unknown[owner] for owner in more))
        return component, edges


def _without(masked_input: np.ndarray, masks: list[Mask], ring_bits: int) -> np.ndarray:
    """Return a masked input without these masks."""
    vector = masked_input.copy()
    accumulate(vector, [Mask(mask.key, subtract=not mask.subtract) for mask in masks])
    ring.reduce_in_place(vector, ring_bits)
    return vector


def assert_hidden(server: LyingServer, *, least: int = 2, own_keys: list[SecretKey] | None = None) -> Knowledge:
    """Assert that no honest client has lost both secrets, and that no sum has fewer than ``least`` honest inputs."""
    knowledge = Knowledge(server, own_keys or [])
    threshold = server.params.threshold
    assert_noise_stays(knowledge)
    for owner in server.honest:
        assert min(knowledge.counts(owner)) < threshold, f"both secrets of client {owner} are out"
    for owners, total in knowledge.sums().items():
        assert total.tolist() == server.true_sum(owners), "this model of the adversary is wrong"
        assert len(owners) >= least, f"the sum of {sorted(owners)} alone is out"
    return knowledge


def assert_noise_stays(knowledge: Knowledge) -> None:
    """Assert that of honest clients' noise the server can take off what one list of survivors does not need, no more.

    With too few shares of a seed nothing follows of the component; with enough, they must give the true seed.
    """
    server = knowledge.server
    params, answered = server.params, server.sent.get(UnmaskingShares, {})
    lists = {server.told[SurvivorList][holder].survivors for holder in answered if holder not in server.corrupt}
    if params.is_signed and params.is_complete:
        assert len(lists) <= 1, "honest clients answered different lists"
    allowed = {component for flags in lists for component in noise.removed_components(params, sum(flags))}
    for owner in server.honest:
        for component, count in enumerate(knowledge.noise_counts(owner), 1):
            if count < params.threshold:
                continue
            assert component in allowed, f"component {component} of client {owner}'s noise is out"
            known = knowledge.noise[owner][component]
            places = sorted(known)[: params.threshold]
            (seed,) = sharing.reconstruct_seeds(np.array(places), np.stack([known[at] for at in places])[:, None])
            true = noise.seeds(server.entropy[owner].draws[-1], params, server.session_id, owner)
            assert seed == true[component - 1], "this model of the adversary is wrong"
