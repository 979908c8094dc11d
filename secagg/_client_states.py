"""The client's states: one frozen value a phase, with its pure transitions.

A transition takes the state and one input, checks the input against every rule, and returns the next state with
the events.  All randomness is drawn at the start: from then on a transition is a function of its arguments.

States hold secrets; they never leave the shell in `client.py`, which moves them so that no state can be used twice:
answering two different survivor lists from one state would give away both secrets of a peer.
"""

from dataclasses import dataclass
from enum import Enum, unique
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg import sharing
from secagg.algebra import ring
from secagg.errors import RemoteProtocolError, Rule
from secagg.events import SERVER, ClientEvent, InputRequested, Send
from secagg.masking import accumulate, mask_secret_key, pairwise_mask, self_mask
from secagg.messages import (
    AdvertiseKeys,
    Flags,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ServerMessage,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import ClientId, Parameters
from secagg.primitives import aead, agreement
from secagg.primitives.agreement import KEY_BYTES, SecretKey
from secagg.primitives.entropy import EntropySource, draw
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS, SEED_BYTES, SHARE_BYTES, ShareChannel


@unique
class ClientPhase(Enum):
    """What a client waits for."""

    CREATED = "start() has not been called"
    ADVERTISED = "its keys are out; waits for PeerKeys"
    SHARED_KEYS = "its encrypted shares are out; waits for PeerShares"
    INPUT_REQUESTED = "the pairwise keys are set; waits for submit_input()"
    MASKED = "its masked input is out; waits for SurvivorList"
    FINISHED = "it answered the survivor list; its part is done"
    ABORTED = "a rule was broken or the host gave up; nothing is left"
    SUSPENDED = "moved into the bytes that suspend() returned; nothing is left"


@dataclass(frozen=True, slots=True, repr=False)
class Setup:
    """What does not change during a session. Public."""

    params: Parameters
    client_id: ClientId
    session_id: bytes


@dataclass(frozen=True, slots=True, repr=False)
class State:
    """The base of all states, in which every message is illegal."""

    setup: Setup

    def receive(self, message: ServerMessage) -> "Transition":
        raise RemoteProtocolError(Rule.UNEXPECTED_MESSAGE, f"{type(message).__name__} in phase {self.phase.name}")

    @property
    def phase(self) -> ClientPhase:
        return PHASES[type(self)]


Transition: TypeAlias = tuple[State, tuple[ClientEvent, ...]]


@dataclass(frozen=True, slots=True, repr=False)
class Created(State):
    def start(self, entropy: EntropySource) -> Transition:
        """Draw the secrets and advertise the keys (paper, round 0)."""
        setup = self.setup
        channel_secret_key = draw(entropy, KEY_BYTES)
        mask_key_seed = draw(entropy, SEED_BYTES)
        self_mask_seed = draw(entropy, SEED_BYTES)
        sharing_seed = draw(entropy, SEED_BYTES)
        message = AdvertiseKeys(
            setup.session_id,
            channel_public_key=agreement.public_key(channel_secret_key),
            mask_public_key=mask_secret_key(mask_key_seed, setup.session_id, setup.client_id).public_key(),
        )
        state = Advertised(setup, channel_secret_key, mask_key_seed, self_mask_seed, sharing_seed)
        return state, (Send(SERVER, message),)


@dataclass(frozen=True, slots=True, repr=False)
class Advertised(State):
    channel_secret_key: bytes
    mask_key_seed: bytes
    self_mask_seed: bytes
    sharing_seed: bytes

    def receive(self, message: ServerMessage) -> Transition:
        """Share both seeds among the peers (paper, round 1)."""
        if not isinstance(message, PeerKeys):
            return State.receive(self, message)
        setup, params = self.setup, self.setup.params
        channel_key = SecretKey(self.channel_secret_key)
        own_keys = (
            channel_key.public_key(),
            mask_secret_key(self.mask_key_seed, setup.session_id, setup.client_id).public_key(),
        )
        own_place = _check_peer_keys(message, setup, own_keys)

        num_peers = len(message.client_ids)
        coefficients = sharing.coefficient_source(self.sharing_seed, setup.session_id, setup.client_id)
        seeds = (self.mask_key_seed, self.self_mask_seed)
        shares = sharing.share_seeds(seeds, params.threshold, num_peers, coefficients)
        plaintexts = sharing.shares_to_bytes(shares)
        encrypted_shares = bytearray()
        receive_keys = bytearray()
        for place, peer_id in enumerate(message.client_ids):
            if place == own_place:
                receive_keys += bytes(aead.KEY_BYTES)
                continue
            peer_key = message.channel_public_keys[KEY_BYTES * place : KEY_BYTES * (place + 1)]
            channel = ShareChannel.agree(channel_key, peer_key, setup.session_id, setup.client_id, peer_id)
            plaintext = plaintexts[2 * SHARE_BYTES * place : 2 * SHARE_BYTES * (place + 1)]
            encrypted_shares += channel.seal_shares(plaintext, setup.session_id, setup.client_id, peer_id)
            receive_keys += channel.receive_key
        state = SharedKeys(
            setup,
            client_ids=message.client_ids,
            mask_public_keys=message.mask_public_keys,
            receive_keys=bytes(receive_keys),
            mask_key_seed=self.mask_key_seed,
            self_mask_seed=self.self_mask_seed,
            own_shares=sharing.shares_to_bytes(shares[own_place]),
        )
        return state, (Send(SERVER, ShareKeys(setup.session_id, bytes(encrypted_shares))),)


@dataclass(frozen=True, slots=True, repr=False)
class SharedKeys(State):
    client_ids: tuple[ClientId, ...]
    mask_public_keys: bytes
    receive_keys: bytes
    mask_key_seed: bytes
    self_mask_seed: bytes
    own_shares: bytes

    def receive(self, message: ServerMessage) -> Transition:
        """Open the peers' shares; one that does not authenticate is noted, not fatal (paper, round 2)."""
        if not isinstance(message, PeerShares):
            return State.receive(self, message)
        setup, params = self.setup, self.setup.params
        _check_flags(message.shared, self.client_ids, setup)
        if len(message.encrypted_shares) != ENCRYPTED_SHARES_BYTES * (sum(message.shared) - 1):
            raise RemoteProtocolError(Rule.WRONG_SIZE, "encrypted shares for other peers than those that shared keys")

        shares = np.zeros((len(self.client_ids), 2, LIMBS), dtype=np.uint16)
        held = [False] * len(self.client_ids)
        rejected: list[ClientId] = []
        at = 0
        for place, (peer_id, has_shared) in enumerate(zip(self.client_ids, message.shared, strict=True)):
            if peer_id == setup.client_id:
                # In the sparse graph only the neighbours hold shares; in the paper's complete one everybody does.
                shares[place] = sharing.shares_from_bytes(self.own_shares)
                held[place] = params.is_complete
            elif has_shared:
                ciphertext = message.encrypted_shares[at : at + ENCRYPTED_SHARES_BYTES]
                at += ENCRYPTED_SHARES_BYTES
                key = self.receive_keys[aead.KEY_BYTES * place : aead.KEY_BYTES * (place + 1)]
                try:
                    shares[place] = sharing.open_shares(key, ciphertext, setup.session_id, peer_id, setup.client_id)
                    held[place] = True
                except (aead.AuthenticationError, sharing.InvalidSharesError):
                    rejected.append(peer_id)
        if sum(held) < params.threshold:
            raise RemoteProtocolError(
                Rule.TOO_FEW_VALID_SHARES, f"{sum(held)} of the {params.threshold} needed", tuple(rejected)
            )
        state = InputAwaited(
            setup,
            client_ids=self.client_ids,
            mask_public_keys=self.mask_public_keys,
            mask_key_seed=self.mask_key_seed,
            self_mask_seed=self.self_mask_seed,
            shared=message.shared,
            held=tuple(held),
            shares=sharing.shares_to_bytes(shares),
        )
        return state, (InputRequested(tuple(rejected)),)


@dataclass(frozen=True, slots=True, repr=False)
class InputAwaited(State):
    client_ids: tuple[ClientId, ...]
    mask_public_keys: bytes
    mask_key_seed: bytes
    self_mask_seed: bytes
    shared: Flags
    held: Flags
    shares: bytes

    def submit_input(self, input_vector: npt.NDArray[np.integer]) -> Transition:
        """y_u = x_u + p_u + sum of +-p_uv over the peers that shared keys (paper, round 2). The input is checked."""
        setup, params = self.setup, self.setup.params
        masked_input = input_vector.astype(ring.word_dtype(params.ring_bits))
        secret_key = mask_secret_key(self.mask_key_seed, setup.session_id, setup.client_id)
        masks = [self_mask(self.self_mask_seed, setup.session_id, setup.client_id)]
        for place, (peer_id, has_shared) in enumerate(zip(self.client_ids, self.shared, strict=True)):
            if has_shared and peer_id != setup.client_id:
                peer_key = self.mask_public_keys[KEY_BYTES * place : KEY_BYTES * (place + 1)]
                masks.append(pairwise_mask(secret_key, peer_key, setup.session_id, setup.client_id, peer_id))
        accumulate(masked_input, masks)
        ring.reduce_in_place(masked_input, params.ring_bits)
        state = Masked(setup, client_ids=self.client_ids, shared=self.shared, held=self.held, shares=self.shares)
        return state, (Send(SERVER, MaskedInput(setup.session_id, masked_input)),)


@dataclass(frozen=True, slots=True, repr=False)
class Masked(State):
    client_ids: tuple[ClientId, ...]
    shared: Flags
    held: Flags
    shares: bytes

    def receive(self, message: ServerMessage) -> Transition:
        """Release one share a peer: of a survivor's self-mask seed, of a vanished one's mask key (paper, round 4)."""
        if not isinstance(message, SurvivorList):
            return State.receive(self, message)
        setup = self.setup
        _check_flags(message.survivors, self.client_ids, setup)
        strangers = [
            peer_id
            for peer_id, survives, has_shared in zip(self.client_ids, message.survivors, self.shared, strict=True)
            if survives and not has_shared
        ]
        if strangers:
            raise RemoteProtocolError(Rule.SURVIVORS_NOT_SUBSET, f"clients {_listed(strangers)}")
        held = np.array(self.held, dtype=bool)
        shares = sharing.shares_from_bytes(self.shares).reshape(-1, 2, LIMBS)[held]
        survives = np.array(message.survivors, dtype=bool)[held]
        released = np.where(survives[:, None], shares[:, 1], shares[:, 0])
        return Finished(setup), (Send(SERVER, UnmaskingShares(setup.session_id, self.held, released)),)


@dataclass(frozen=True, slots=True, repr=False)
class Finished(State):
    pass


@dataclass(frozen=True, slots=True, repr=False)
class Aborted(State):
    pass


@dataclass(frozen=True, slots=True, repr=False)
class Suspended(State):
    pass


PHASES: dict[type[State], ClientPhase] = {
    Created: ClientPhase.CREATED,
    Advertised: ClientPhase.ADVERTISED,
    SharedKeys: ClientPhase.SHARED_KEYS,
    InputAwaited: ClientPhase.INPUT_REQUESTED,
    Masked: ClientPhase.MASKED,
    Finished: ClientPhase.FINISHED,
    Aborted: ClientPhase.ABORTED,
    Suspended: ClientPhase.SUSPENDED,
}


def _check_peer_keys(message: PeerKeys, setup: Setup, own_keys: tuple[bytes, bytes]) -> int:
    """Every rule for the list of keys; returns this client's place in it."""
    ids, params = message.client_ids, setup.params
    size = KEY_BYTES * len(ids)
    if len(message.channel_public_keys) != size or len(message.mask_public_keys) != size:
        raise RemoteProtocolError(Rule.WRONG_SIZE, f"keys for other than the {len(ids)} clients listed")
    if any(first >= second for first, second in pairwise(ids)):
        raise RemoteProtocolError(Rule.IDS_NOT_ASCENDING)
    if setup.client_id not in ids:
        raise RemoteProtocolError(Rule.SELF_MISSING)
    if len(ids) > params.degree + 1:
        raise RemoteProtocolError(Rule.TOO_MANY_PEERS, f"{len(ids)}, but at most {params.degree + 1}")
    _check_enough(len(ids), setup)
    channel_keys = _split_keys(message.channel_public_keys)
    mask_keys = _split_keys(message.mask_public_keys)
    own_place = ids.index(setup.client_id)
    if (channel_keys[own_place], mask_keys[own_place]) != own_keys:
        raise RemoteProtocolError(Rule.KEYS_OF_SELF_CHANGED)
    if len({*channel_keys, *mask_keys}) != 2 * len(ids):
        raise RemoteProtocolError(Rule.KEYS_NOT_DISTINCT)
    invalid = tuple(
        peer_id
        for peer_id, *keys in zip(ids, channel_keys, mask_keys, strict=True)
        if not all(map(agreement.is_valid_public_key, keys))
    )
    if invalid:
        raise RemoteProtocolError(Rule.INVALID_PUBLIC_KEY, f"of clients {_listed(invalid)}", invalid)
    return own_place


def _check_flags(flags: Flags, client_ids: tuple[ClientId, ...], setup: Setup) -> None:
    """The rules that both lists of clients obey, that of who shared keys and that of who survived."""
    if len(flags) != len(client_ids):
        raise RemoteProtocolError(Rule.WRONG_SIZE, f"{len(flags)} flags for {len(client_ids)} clients")
    if not flags[client_ids.index(setup.client_id)]:
        raise RemoteProtocolError(Rule.SELF_MISSING)
    _check_enough(sum(flags), setup)


def _check_enough(num_clients: int, setup: Setup) -> None:
    quorum = setup.params.quorum
    if num_clients < quorum:
        raise RemoteProtocolError(Rule.TOO_FEW_PEERS, f"{num_clients} with this client itself, but at least {quorum}")


def _split_keys(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


def _listed(client_ids: list[ClientId] | tuple[ClientId, ...]) -> str:
    shown = ", ".join(map(str, client_ids[:10]))
    return f"{shown} and {len(client_ids) - 10} more" if len(client_ids) > 10 else shown
