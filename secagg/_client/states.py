"""States of the client: one frozen value for each phase, with its pure transitions.

A transition takes the state and one input, checks the input against all rules, and returns the next state with the
events.  All randomness is drawn at the start; afterwards a transition is a function of its arguments.

States hold secrets and never leave the shell in `client.py`.  The shell takes a state out in one step, leaves `InUse`
in its place, and installs the next state only if `InUse` is still there.  So no state is used twice, by any thread: two
answers to different survivor lists from one state would give away both secrets of a peer.
"""

from dataclasses import dataclass, replace
from itertools import compress
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg import noise, sharing, statements
from secagg._client.neighborhood import Neighborhood, split
from secagg._client.phases import ClientPhase
from secagg._client.rules import ClientSetup, View, check_consistency_proof, check_flags, check_peer_keys, listed
from secagg.algebra import ring
from secagg.errors import RemoteProtocolError, Rule
from secagg.events import SERVER, ClientEvent, InputRequested, Send
from secagg.identity import Identity
from secagg.masking import accumulate, mask_secret_key, pairwise_mask, self_mask
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    Flags,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ServerMessage,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import ClientId
from secagg.primitives import aead, agreement, prg
from secagg.primitives.agreement import KEY_BYTES, SecretKey
from secagg.primitives.entropy import EntropySource, draw
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS, SEED_BYTES, SHARE_BYTES, ShareChannel


@dataclass(frozen=True, slots=True, repr=False)
class State:
    """Base class of the states. Here every message is illegal; subclasses allow what is legal."""

    setup: ClientSetup

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        """Return the ids of the neighbourhood, once they are known."""
        return ()

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
        if setup.params.is_signed and not setup.params.has_identities:
            setup = replace(setup, identity=Identity.generate(entropy))
        noise_seed = draw(entropy, SEED_BYTES) if setup.params.noise_components else b""
        keys = (
            agreement.public_key(channel_secret_key),
            mask_secret_key(mask_key_seed, setup.session_id, setup.client_id).public_key(),
        )
        message = AdvertiseKeys(setup.session_id, *keys)
        if setup.identity is not None:
            statement = statements.advertised_keys(setup.session_id, setup.client_id, *keys)
            message = AdvertiseKeys(setup.session_id, *keys, setup.identity.public_key, setup.identity.sign(statement))
        state = Advertised(setup, channel_secret_key, mask_key_seed, self_mask_seed, sharing_seed, noise_seed)
        return state, (Send(SERVER, message),)


@dataclass(frozen=True, slots=True, repr=False)
class Advertised(State):
    channel_secret_key: bytes
    mask_key_seed: bytes
    self_mask_seed: bytes
    sharing_seed: bytes
    noise_seed: bytes

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
        own_place = check_peer_keys(message, setup, own_keys)

        num_peers = len(message.client_ids)
        coefficients = sharing.coefficient_source(self.sharing_seed, setup.session_id, setup.client_id)
        seeds = (self.mask_key_seed, self.self_mask_seed)
        shares = sharing.share_seeds(seeds, params.threshold, num_peers, coefficients)
        plaintexts = sharing.shares_to_bytes(shares)
        encrypted_shares = bytearray()
        receive_keys = bytearray()
        # The keys of the holders' pads for this client's noise seeds, and of its own pads for theirs.
        noisy = bool(params.noise_components)
        own = noise.own_pad_key(self.sharing_seed, setup.session_id, setup.client_id) if noisy else b""
        pad_keys, own_pad_keys = [own] * num_peers, [own] * num_peers
        for place, peer_id in enumerate(message.client_ids):
            if place == own_place:
                receive_keys += bytes(aead.KEY_BYTES)
                continue
            peer_key = message.channel_public_keys[KEY_BYTES * place : KEY_BYTES * (place + 1)]
            channel = ShareChannel.agree(
                channel_key, peer_key, setup.session_id, setup.client_id, peer_id, with_pads=noisy
            )
            plaintext = plaintexts[2 * SHARE_BYTES * place : 2 * SHARE_BYTES * (place + 1)]
            encrypted_shares += channel.seal_shares(plaintext, setup.session_id, setup.client_id, peer_id)
            receive_keys += channel.receive_key
            if noisy:
                pad_keys[place], own_pad_keys[place] = channel.pad_keys
        commitment = sharing.seed_commitment(self.self_mask_seed, setup.session_id, setup.client_id)
        state = SharedKeys(
            setup,
            Neighborhood.of(message, is_signed=params.is_signed),
            receive_keys=bytes(receive_keys),
            mask_key_seed=self.mask_key_seed,
            self_mask_seed=self.self_mask_seed,
            own_shares=sharing.shares_to_bytes(shares[own_place]),
            noise_seed=self.noise_seed,
            pad_keys=b"".join(own_pad_keys),
        )
        shared_noise = noise.share(self.noise_seed, pad_keys, params, setup.session_id, setup.client_id)
        answer = ShareKeys(setup.session_id, commitment, bytes(encrypted_shares), *shared_noise)
        return state, (Send(SERVER, answer),)


@dataclass(frozen=True, slots=True, repr=False)
class Listed(State):
    """Base class of the states that know their neighbourhood."""

    neighborhood: Neighborhood

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        return self.neighborhood.client_ids


@dataclass(frozen=True, slots=True, repr=False)
class SharedKeys(Listed):
    receive_keys: bytes
    mask_key_seed: bytes
    self_mask_seed: bytes
    own_shares: bytes
    noise_seed: bytes
    pad_keys: bytes

    def receive(self, message: ServerMessage) -> Transition:
        """Open the peers' shares; a share that does not authenticate is recorded and not fatal (paper, round 2)."""
        if not isinstance(message, PeerShares):
            return State.receive(self, message)
        setup, params = self.setup, self.setup.params
        check_flags(message.shared, self.client_ids, setup)
        if len(message.encrypted_shares) != ENCRYPTED_SHARES_BYTES * (sum(message.shared) - 1):
            raise RemoteProtocolError(Rule.WRONG_SIZE, "encrypted shares that do not match the peers that shared keys")

        shares = np.zeros((len(self.client_ids), 2, LIMBS), dtype=np.uint16)
        held = [False] * len(self.client_ids)
        rejected: list[ClientId] = []
        at = 0
        for place, (peer_id, has_shared) in enumerate(zip(self.client_ids, message.shared, strict=True)):
            if peer_id == setup.client_id:
                # In the sparse graph only neighbours hold shares; in the paper's complete graph each client holds its
                # own.
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
            self.neighborhood,
            mask_key_seed=self.mask_key_seed,
            self_mask_seed=self.self_mask_seed,
            shared=message.shared,
            held=tuple(held),
            shares=sharing.shares_to_bytes(shares),
            noise_seed=self.noise_seed,
            pad_keys=self.pad_keys,
        )
        return state, (InputRequested(tuple(rejected)),)


@dataclass(frozen=True, slots=True, repr=False)
class InputAwaited(Listed):
    mask_key_seed: bytes
    self_mask_seed: bytes
    shared: Flags
    held: Flags
    shares: bytes
    noise_seed: bytes
    pad_keys: bytes

    def noise_keys(self) -> tuple[bytes, ...]:
        """Return the key of each noise component."""
        return noise.noise_keys(self.noise_seed, self.setup.params, self.setup.session_id, self.setup.client_id)

    def submit_input(self, input_vector: npt.NDArray[np.integer]) -> Transition:
        """Mask a checked input: y_u = x_u + p_u + sum of +-p_uv over the peers that shared keys (paper, round 2)."""
        setup, params = self.setup, self.setup.params
        masked_input = input_vector.astype(ring.word_dtype(params.ring_bits))
        secret_key = mask_secret_key(self.mask_key_seed, setup.session_id, setup.client_id)
        masks = [self_mask(self.self_mask_seed, setup.session_id, setup.client_id)]
        for place, (peer_id, has_shared) in enumerate(zip(self.client_ids, self.shared, strict=True)):
            if has_shared and peer_id != setup.client_id:
                peer_key = self.neighborhood.mask_public_key(place)
                masks.append(pairwise_mask(secret_key, peer_key, setup.session_id, setup.client_id, peer_id))
        accumulate(masked_input, masks)
        ring.reduce_in_place(masked_input, params.ring_bits)
        pairwise_keys = b"".join(mask.key for mask in masks[1:]) if params.hands_over_pairwise_keys else b""
        state = Masked(
            setup,
            self.neighborhood,
            shared=self.shared,
            held=self.held,
            shares=self.shares,
            pairwise_keys=pairwise_keys,
            pad_keys=self.pad_keys,
        )
        return state, (Send(SERVER, MaskedInput(setup.session_id, masked_input)),)


@dataclass(frozen=True, slots=True, repr=False)
class Masked(Listed):
    shared: Flags
    held: Flags
    shares: bytes
    pairwise_keys: bytes
    pad_keys: bytes

    def receive(self, message: ServerMessage) -> Transition:
        """Take the list of survivors: sign it in the signed modes (paper, round 3), else answer it at once."""
        if not isinstance(message, SurvivorList):
            return State.receive(self, message)
        setup = self.setup
        check_flags(message.survivors, self.client_ids, setup)
        strangers = [
            peer_id
            for peer_id, survives, has_shared in zip(self.client_ids, message.survivors, self.shared, strict=True)
            if survives and not has_shared
        ]
        if strangers:
            raise RemoteProtocolError(Rule.SURVIVORS_NOT_SUBSET, f"clients {listed(strangers)}")
        if setup.identity is None:
            return _release(self, message.survivors)
        state = SurvivorsSigned(
            setup,
            self.neighborhood,
            shared=self.shared,
            survivors=message.survivors,
            held=self.held,
            shares=self.shares,
            pairwise_keys=self.pairwise_keys,
            pad_keys=self.pad_keys,
        )
        digest = statements.view_digest(setup.session_id, state.view().members())
        signature = setup.identity.sign(statements.view(setup.session_id, setup.client_id, digest))
        return state, (Send(SERVER, ConsistencyCheck(setup.session_id, signature)),)


@dataclass(frozen=True, slots=True, repr=False)
class SurvivorsSigned(Listed):
    shared: Flags
    survivors: Flags
    held: Flags
    shares: bytes
    pairwise_keys: bytes
    pad_keys: bytes

    def view(self) -> View:
        """Return the view that this client signed."""
        return View(self.neighborhood, self.shared, self.survivors)

    def receive(self, message: ServerMessage) -> Transition:
        """Answer the list once a quorum has signed the same list (paper, round 4)."""
        if isinstance(message, SurvivorList):
            raise _second_list(message, self.survivors)
        if not isinstance(message, ConsistencyProof):
            return State.receive(self, message)
        check_consistency_proof(message, self.setup, self.view())
        return _release(self, self.survivors)


@dataclass(frozen=True, slots=True, repr=False)
class FinishedState(State):
    listed_ids: tuple[ClientId, ...]
    survivors: Flags

    @property
    def client_ids(self) -> tuple[ClientId, ...]:
        return self.listed_ids

    def receive(self, message: ServerMessage) -> Transition:
        """Refuse a second answer."""
        if isinstance(message, SurvivorList):
            raise _second_list(message, self.survivors)
        if isinstance(message, ConsistencyProof) and self.setup.params.is_signed:
            raise RemoteProtocolError(Rule.REPEATED_REQUEST)
        return State.receive(self, message)


@dataclass(frozen=True, slots=True, repr=False)
class AbortedState(State):
    pass


@dataclass(frozen=True, slots=True, repr=False)
class Suspended(State):
    pass


@dataclass(frozen=True, slots=True, repr=False)
class InUse(State):
    """Placeholder for a state that a call has taken out; ``found`` is the phase of that state."""

    found: ClientPhase

    @property
    def phase(self) -> ClientPhase:
        return self.found


PHASES: dict[type[State], ClientPhase] = {
    Created: ClientPhase.CREATED,
    Advertised: ClientPhase.ADVERTISED,
    SharedKeys: ClientPhase.SHARED_KEYS,
    InputAwaited: ClientPhase.INPUT_REQUESTED,
    Masked: ClientPhase.MASKED,
    SurvivorsSigned: ClientPhase.SURVIVORS_SIGNED,
    FinishedState: ClientPhase.FINISHED,
    AbortedState: ClientPhase.ABORTED,
    Suspended: ClientPhase.SUSPENDED,
}


def _release(state: "Masked | SurvivorsSigned", survivors: Flags) -> Transition:
    """Release one share for each peer (paper, round 4): of a survivor's self-mask seed, else of the mask key.

    Also hand over the keys of the pairwise masks with the peers that vanished, where the parameters allow it.
    """
    setup, held = state.setup, np.array(state.held, dtype=bool)
    shares = sharing.shares_from_bytes(state.shares).reshape(-1, 2, LIMBS)[held]
    survives = np.array(survivors, dtype=bool)[held]
    released = np.where(survives[:, None], shares[:, 1], shares[:, 0])
    vanished = [
        not survives
        for peer_id, has_shared, survives in zip(state.client_ids, state.shared, survivors, strict=True)
        if has_shared and peer_id != setup.client_id
    ]
    pairwise_keys = b"".join(compress(split(state.pairwise_keys, prg.KEY_BYTES), vanished))
    owners = map(all, zip(state.held, survivors, strict=True))
    pad_keys = compress(split(state.pad_keys, prg.KEY_BYTES), owners) if state.pad_keys else ()
    pads = noise.released_pads(pad_keys, setup.params, sum(survivors))
    message = UnmaskingShares(setup.session_id, state.held, released, pairwise_keys, pads)
    return FinishedState(setup.without_identity(), state.client_ids, survivors), (Send(SERVER, message),)


def _second_list(message: SurvivorList, answered: Flags) -> RemoteProtocolError:
    changed = message.survivors != answered
    return RemoteProtocolError(Rule.SURVIVORS_CHANGED if changed else Rule.REPEATED_REQUEST)
