"""The server's knowledge from many sessions: by reconstruction and linear algebra.

A client's part in one session, with the keys that it drew for it, is a `Run`; a client may have several runs under one
session id.  The ledger counts the shares of both secrets of each run, reconstructs every secret that it can, and solves
for sums of inputs over all runs of all sessions.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import product
from typing import Any, Protocol

import numpy as np

from secagg import Parameters, encode, sharing, statements
from secagg._client.neighborhood import split
from secagg.masking import Mask, accumulate, mask_secret_key, pairwise_mask, self_mask
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.primitives import signing
from secagg.primitives.agreement import KEY_BYTES, SecretKey
from secagg.sharing import ENCRYPTED_SHARES_BYTES
from tests.adversarial.lies.components import components
from tests.support.sessions import SeededEntropy

# At most this many sums with common inputs are combined with each other.
_MOST_COMBINED = 5


class Secret(IntEnum):
    """The secret that a share belongs to."""

    MASK_KEY = 0
    SELF_MASK = 1


class Line(Protocol):
    """The server's connection to one run of a client, for bytes. `Refused` if the client aborts."""

    def tell(self, data: bytes, *, again: bool = False) -> bytes | None:
        """Return the client's answer; None if it ignored the message. ``again``: under the last message's number."""
        ...

    def crash(self) -> bytes | None:
        """Stop the client and bring it back; return what it then sends again, if anything."""
        ...

    @property
    def input(self) -> list[int] | None:
        """Return the client's input, once it gave it."""
        ...

    @property
    def basis(self) -> Hashable:
        """Return all that the server told the application that made the input."""
        ...


class Refused(Exception):  # noqa: N818 - not an error of the test's
    """A client aborted or did not begin; the error names the rule."""


@dataclass(eq=False)
class Run:
    """One run of one client, in the server's view.

    Attributes:
        client_id: its number in the session.
        owner: the client behind it, beyond the session.
        entropy: for a corrupt client: the server knows its secrets.
        input_name: runs that would have the same input have the same name.
        round: equal for the runs of a client in one round of a training.
        told, heard: the messages that it accepted, and those that it sent; by type.
        answers: its UnmaskingShares messages as bytes, each different one once.
    """

    client_id: int
    owner: int
    params: Parameters
    session_id: bytes
    line: Line
    entropy: SeededEntropy | None = None
    input_name: Hashable = None
    round: Hashable = None
    told: dict[type, Any] = field(default_factory=dict)
    heard: dict[type, Any] = field(default_factory=dict)
    answers: set[bytes] = field(default_factory=set)
    refused: str | None = None

    @property
    def is_corrupt(self) -> bool:
        return self.entropy is not None

    @property
    def keys(self) -> AdvertiseKeys:
        keys: AdvertiseKeys = self.heard[AdvertiseKeys]
        return keys

    @property
    def listed(self) -> tuple[int, ...]:
        """Return its neighbourhood."""
        ids: tuple[int, ...] = self.told[PeerKeys].client_ids
        return ids

    def members(self) -> list[bytes]:
        """Return the digests of the members in the view that it signed, in the order of its list."""
        return [
            statements.member(keys, statements.standing(shared, survives))
            for keys, shared, survives in zip(
                self.member_keys(), self.told[PeerShares].shared, self.told[SurvivorList].survivors, strict=True
            )
        ]

    def member_keys(self) -> list[bytes]:
        keys = self.told[PeerKeys]
        return [
            statements.keys_digest(self.session_id, peer_id, *its_keys)
            for peer_id, *its_keys in zip(
                keys.client_ids,
                split(keys.identity_keys, signing.KEY_BYTES),
                split(keys.channel_public_keys, KEY_BYTES),
                split(keys.mask_public_keys, KEY_BYTES),
                strict=True,
            )
        ]


class ModelError(AssertionError):
    """The ledger computed something false: this model of the adversary is wrong."""


@dataclass(frozen=True)
class LearntSum:
    """A sum of honest inputs that the server can compute: of these runs, and the smallest allowed number of inputs."""

    runs: frozenset[Run]
    least: int

    @property
    def clients(self) -> int:
        """Return among how many clients it hides each of them."""
        return len({run.owner for run in self.runs})


class Ledger:
    """All messages that the server received, and what follows from them.

    ``corrupt`` are clients that share all their knowledge with it.
    """

    def __init__(self, corrupt: Iterable[int] = ()) -> None:
        self.corrupt = frozenset(corrupt)
        self.runs: list[Run] = []
        # Shares of each secret by the holder's place, where the sharing polynomial is evaluated.
        self.shares: defaultdict[tuple[Run, Secret], dict[int, np.ndarray]] = defaultdict(dict)
        self._dealt: dict[bytes, tuple[Run, int]] = {}
        self._by_channel_key: dict[bytes, Run] = {}
        self._secret_keys: dict[bytes, SecretKey] = {}
        # Keys of pairwise masks that runs handed over, by the masks' names.
        self._pairwise_keys: dict[Hashable, bytes] = {}

    # --- Received messages --------------------------------------------------------------------------------------------

    def hear(self, run: Run, message: Any) -> None:
        """Record a run's message, after all that the run was told."""
        if isinstance(message, UnmaskingShares):
            data = encode(message, run.params)
            if data not in run.answers:
                run.answers.add(data)
                self._take_released(run, message)
        elif isinstance(message, AdvertiseKeys):
            self.runs.append(run)
            self._by_channel_key[message.channel_public_key] = run
            if run.entropy is not None:
                key = mask_secret_key(run.entropy.draws[1], run.session_id, run.client_id)
                self._secret_keys[key.public_key()] = key
        elif isinstance(message, ShareKeys) and not run.is_corrupt:
            self._take_dealt(run, message)
        run.heard[type(message)] = message

    def _take_dealt(self, owner: Run, message: ShareKeys) -> None:
        """Record the owner of each encrypted share; open those for corrupt clients."""
        keys = split(owner.told[PeerKeys].channel_public_keys, KEY_BYTES)
        peers = [place for place, peer_id in enumerate(owner.listed) if peer_id != owner.client_id]
        for place, item in zip(peers, split(message.encrypted_shares, ENCRYPTED_SHARES_BYTES), strict=True):
            self._dealt[item] = owner, place
            holder = self._by_channel_key.get(keys[place])
            if holder is not None and holder.entropy is not None and holder.client_id == owner.listed[place]:
                secret_key = SecretKey(holder.entropy.draws[0])
                public_key = owner.keys.channel_public_key
                channel = sharing.ShareChannel.agree(
                    secret_key, public_key, owner.session_id, holder.client_id, owner.client_id
                )
                shares = sharing.open_shares(
                    channel.receive_key, item, owner.session_id, owner.client_id, holder.client_id
                )
                for secret in Secret:
                    self.shares[owner, secret][place] = shares[secret]

    def dealt(self, owner: Run, holder: Run) -> bytes | None:
        """Return the share that an owner dealt to the holder with exactly these keys."""
        if ShareKeys not in owner.heard:
            return None
        peers = [peer_id for peer_id in owner.listed if peer_id != owner.client_id]
        keys = split(owner.told[PeerKeys].channel_public_keys, KEY_BYTES)
        if holder.client_id not in peers:
            return None
        if keys[owner.listed.index(holder.client_id)] != holder.keys.channel_public_key:
            return None
        at = peers.index(holder.client_id)
        items = split(owner.heard[ShareKeys].encrypted_shares, ENCRYPTED_SHARES_BYTES)
        return items[at]

    def _take_released(self, holder: Run, message: UnmaskingShares) -> None:
        if holder.is_corrupt:
            return
        told = holder.told[PeerShares]
        ciphertexts = iter(split(told.encrypted_shares, ENCRYPTED_SHARES_BYTES))
        shares = iter(message.shares)
        survivors = holder.told[SurvivorList].survivors
        for place, (peer_id, shared, held, survives) in enumerate(
            zip(holder.listed, told.shared, message.held, survivors, strict=True)
        ):
            own = peer_id == holder.client_id
            ciphertext = next(ciphertexts) if shared and not own else b""
            if not held:
                continue
            share, secret = next(shares), Secret.SELF_MASK if survives else Secret.MASK_KEY
            if own:
                self.shares[holder, secret][place] = share
            elif ciphertext in self._dealt:
                owner, owners_place = self._dealt[ciphertext]
                self.shares[owner, secret][owners_place] = share
        vanished = [
            name
            for (name, _, _), survives in zip(self._pairs(holder), survivors, strict=True)
            if name is not None and not survives
        ]
        if message.pairwise_keys:
            self._pairwise_keys.update(zip(vanished, split(message.pairwise_keys, 16), strict=True))

    def _pairs(self, run: Run) -> Iterator[tuple[Hashable, int, bytes]]:
        """Return name (both ends, as told), peer and peer's key of each mask in a run's input, in the list's order.

        The name is None where there is no mask: of the run itself, and of peers that had not shared.
        """
        keys = split(run.told[PeerKeys].mask_public_keys, KEY_BYTES)
        for peer_id, peer_key, shared in zip(run.listed, keys, run.told[PeerShares].shared, strict=True):
            ends = frozenset(((run.client_id, run.keys.mask_public_key), (peer_id, peer_key)))
            name = (run.session_id, ends) if shared and peer_id != run.client_id else None
            yield name, peer_id, peer_key

    # --- Conclusions --------------------------------------------------------------------------------------------------

    @property
    def honest(self) -> list[Run]:
        return [run for run in self.runs if not run.is_corrupt]

    def count(self, run: Run, secret: Secret) -> int:
        """Return how many shares of a secret have come in."""
        return len(self.shares[run, secret])

    def second_secrets(self) -> list[Run]:
        """Return the runs whose two secrets are both out."""
        return [run for run in self.honest if min(self.count(run, secret) for secret in Secret) >= run.params.threshold]

    def seed(self, run: Run, secret: Secret) -> bytes | None:
        """Return a secret, if there are enough shares; it must be the one that the run dealt."""
        shares, threshold = self.shares[run, secret], run.params.threshold
        if len(shares) < threshold:
            return None
        places = sorted(shares)[:threshold]
        rows = np.stack([shares[place] for place in places])
        (seed,) = sharing.reconstruct_seeds(np.array(places), rows[:, None, :])
        if seed is None or not self._is_of(run, secret, seed):
            raise ModelError(f"shares of client {run.client_id}'s {secret.name} do not give back what it dealt")
        return seed

    def _is_of(self, run: Run, secret: Secret, seed: bytes) -> bool:
        if secret is Secret.SELF_MASK:
            commitment = sharing.seed_commitment(seed, run.session_id, run.client_id)
            return bool(commitment == run.heard[ShareKeys].seed_commitment)
        return mask_secret_key(seed, run.session_id, run.client_id).public_key() == run.keys.mask_public_key

    def least_inputs(self, run: Run) -> int:
        """Return the smallest allowed number of honest inputs in a sum with this one (docs/threat-model.md)."""
        params = run.params
        corrupt = len(self.corrupt & set(run.listed))
        if params.is_complete:
            return params.threshold - corrupt
        return 2 * params.threshold - params.degree - corrupt + 1 if params.is_signed else 1

    def sums(self) -> list[LearntSum]:
        """Return every computable sum of honest inputs; no smaller ones follow. Each is compared with the truth.

        A masked input whose self-mask is hidden says nothing. The others, joined by each unknown pairwise mask, give
        one sum for each component, if every such mask is in it from both ends.
        """
        for run in self.honest:
            if (seed := self.seed(run, Secret.MASK_KEY)) is not None:
                key = mask_secret_key(seed, run.session_id, run.client_id)
                self._secret_keys[key.public_key()] = key
        partial: dict[Run, np.ndarray] = {}
        unknown: dict[Run, set[Hashable]] = {}
        for run in self.honest:
            if MaskedInput in run.heard and (seed := self.seed(run, Secret.SELF_MASK)) is not None:
                known, unknown[run] = self._pairwise(run)
                known.append(self_mask(seed, run.session_id, run.client_id))
                partial[run] = run.heard[MaskedInput].masked_input.copy()
                accumulate(partial[run], [Mask(mask.key, subtract=not mask.subtract) for mask in known])
        learnt = []
        for component in components(unknown):
            ends = Counter(edge for run in component for edge in unknown[run])
            if all(count == 2 for count in ends.values()):
                self._compare(component, partial)
                learnt.append(LearntSum(frozenset(component), max(map(self.least_inputs, component))))
        return learnt

    def small_sums(self) -> list[LearntSum]:
        """Return sums, and differences of sums, of fewer inputs than allowed."""
        learnt = self.sums()
        small = [one for one in learnt if one.clients < one.least]
        for group in _overlapping(learnt):
            for factors in product((-1, 0, 1), repeat=len(group)):
                names: Counter[Hashable] = Counter()
                by_name = {}
                for factor, one in zip(factors, group, strict=True):
                    for run in one.runs:
                        names[run.input_name] += factor
                        by_name[run.input_name] = run
                left = frozenset(by_name[name] for name, count in names.items() if count)
                least = max(one.least for one in group)
                if left and sum(map(bool, factors)) > 1 and len(left) < least:
                    small.append(LearntSum(left, least))
        return small

    def _compare(self, component: set[Run], partial: dict[Run, np.ndarray]) -> None:
        modulus = next(iter(component)).params.modulus
        computed = [
            sum(map(int, column)) % modulus for column in zip(*(partial[run] for run in component), strict=True)
        ]
        truth = [sum(column) % modulus for column in zip(*(run.line.input or () for run in component), strict=True)]
        if computed != truth:
            raise ModelError(f"the sum of clients {sorted(run.client_id for run in component)} is another")

    def _pairwise(self, run: Run) -> tuple[list[Mask], set[Hashable]]:
        """Return the known masks in an input, and the names of the unknown ones: both ends, as told."""
        own_key = run.keys.mask_public_key
        known: list[Mask] = []
        unknown: set[Hashable] = set()
        for name, peer_id, peer_key in self._pairs(run):
            if name is None:
                continue
            if peer_key in self._secret_keys:
                mask = pairwise_mask(self._secret_keys[peer_key], own_key, run.session_id, peer_id, run.client_id)
                known.append(Mask(mask.key, subtract=not mask.subtract))
            elif own_key in self._secret_keys:
                known.append(
                    pairwise_mask(self._secret_keys[own_key], peer_key, run.session_id, run.client_id, peer_id)
                )
            elif name in self._pairwise_keys:
                known.append(Mask(self._pairwise_keys[name], subtract=run.client_id > peer_id))
            else:
                unknown.add(name)
        return known, unknown

    def own_key(self, key: SecretKey) -> None:
        """Return a mask key that the server made and passed off as a client's."""
        self._secret_keys[key.public_key()] = key


def has_signed(run: Run) -> bool:
    """Return whether there is a signature of the run's view."""
    return ConsistencyCheck in run.heard


def _overlapping(learnt: list[LearntSum]) -> Iterator[list[LearntSum]]:
    """Return sums that have inputs in common, a few at a time."""
    by_name: defaultdict[Hashable, list[LearntSum]] = defaultdict(list)
    for one in learnt:
        for run in one.runs:
            by_name[run.input_name].append(one)
    groups = {frozenset(group[:_MOST_COMBINED]) for group in by_name.values() if len(group) > 1}
    yield from map(list, groups)
