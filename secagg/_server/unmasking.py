"""The server's last round, Unmasking (paper, figure 4, round 4), and the recovery of the masks after it."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secagg import sharing
from secagg._server.noise_seeds import NoiseSeeds
from secagg._server.share_recovery import RecoveredSecrets, explain, recover_secrets
from secagg._server.stage import Closing, Ended, Roster, ServerSetup, Shared, Stage, owners_of_masks
from secagg.algebra import ring
from secagg.algebra.field import PRIME
from secagg.errors import LocalProtocolError
from secagg.events import (
    Aborted,
    AbortReason,
    Completed,
    Dispute,
    DropReason,
    Round,
    ServerEvent,
    ShareFault,
    SharesDisputed,
    UnmaskReady,
)
from secagg.graph import NodeFlags
from secagg.masking import mask_secret_key
from secagg.messages import ClientMessage, UnmaskingShares
from secagg.params import ClientId
from secagg.primitives import prg
from secagg.primitives.agreement import KEY_BYTES
from secagg.sharing import LIMBS
from secagg.unmask_job import MaskSum, RecoveredMaskKey, UnmaskJob


@dataclass(frozen=True, slots=True)
class Unmasking:
    """The sum of the survivors' masked inputs, and the owners of the masks in it."""

    setup: ServerSetup
    roster: Roster
    shared: Shared
    survives: NodeFlags
    masked_sum: ring.RingVector

    @property
    def owners(self) -> NodeFlags:
        """Flag the clients whose secret has to be recovered."""
        return owners_of_masks(self.roster, self.shared.flags, self.survives)


class UnmaskingRound(Stage):
    round = Round.UNMASKING

    def __init__(self, unmasking: Unmasking, invited: NodeFlags) -> None:
        roster = unmasking.roster
        super().__init__(roster.ids_of(invited))
        self._unmasking = unmasking
        self._setup = unmasking.setup
        self._roster = roster
        self._survives = unmasking.survives
        self._owners = unmasking.owners
        # [owner of the secret, place of the holder in the owner's neighbourhood]
        shape = (len(roster.client_ids), roster.graph.neighborhood_size)
        self._held = np.zeros(shape, dtype=bool)
        self._shares = np.zeros((*shape, LIMBS), dtype=np.uint16)
        # Flags of shares that their holders could not open.
        self._missing = np.zeros(shape, dtype=bool)
        # Keys of pairwise masks that survivors handed over: [row of the vanished client, place of the survivor].
        self._vanished = unmasking.shared.flags & ~unmasking.survives
        self._row_of = np.cumsum(self._vanished) - 1
        rows = int(self._vanished.sum()) if self._setup.params.hands_over_pairwise_keys else 0
        self._handed_over = np.zeros((rows, shape[1]), dtype=bool)
        self._pairwise_keys = np.zeros((rows, shape[1], prg.KEY_BYTES), dtype=np.uint8)
        self._noise_seeds = NoiseSeeds(unmasking.setup, roster, unmasking.shared, unmasking.survives)

    @property
    def ready(self) -> bool:
        return not self._lacking().size

    def _lacking(self) -> npt.NDArray[np.intp]:
        """Return the owners with fewer shares than the threshold."""
        enough = self._held.sum(axis=1) >= self._setup.params.threshold
        return np.flatnonzero(self._owners & ~enough)

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, UnmaskingShares):
            return DropReason.UNEXPECTED_MESSAGE
        graph, shared = self._roster.graph, self._unmasking.shared.flags
        node = self._roster.node_of[client_id]
        neighborhood = graph.neighborhood(node)
        held = np.array(message.held, dtype=bool)
        vanished = self._vanished[neighborhood] & self._setup.params.hands_over_pairwise_keys
        if (
            held.shape != neighborhood.shape
            or np.any(held & ~shared[neighborhood])
            # In a sparse graph no client holds a share of its own secret.
            or (not self._setup.params.is_complete and np.any(held & (neighborhood == node)))
            or message.shares.shape != (int(held.sum()), LIMBS)
            or np.any(message.shares >= PRIME)
            or len(message.pairwise_keys) != prg.KEY_BYTES * int(vanished.sum())
            or not self._noise_seeds.accept(node, held, message.noise_pads)
        ):
            return DropReason.WRONG_SIZE
        places = graph.places_of(node)
        self._shares[neighborhood[held], places[held]] = message.shares
        self._held[neighborhood[held], places[held]] = True
        unopened = shared[neighborhood] & ~held & (neighborhood != node)
        self._missing[neighborhood[unopened], places[unopened]] = True
        rows = self._row_of[neighborhood[vanished]]
        self._pairwise_keys[rows, places[vanished]] = np.frombuffer(message.pairwise_keys, np.uint8).reshape(
            -1, prg.KEY_BYTES
        )
        self._handed_over[rows, places[vanished]] = True
        return None

    def close(self) -> Closing:
        params, roster = self._setup.params, self._roster
        lacking = self._lacking()
        if lacking.size:
            had = int(self._held[lacking].sum(axis=1).min())
            disputed, culprits = self._disputed([])
            aborted = self._aborted(AbortReason.TOO_FEW_SHARES, params.threshold, had, lacking, culprits)
            return Ended(self.round), (*disputed, aborted)
        recovered = self._recover()
        seeds = recovered.seeds
        noise_keys, of_noise = self._noise_seeds.recover(self._held)
        disputed, culprits = self._disputed([*recovered.wrong, *of_noise.wrong])
        lying = roster.ids(np.array(of_noise.inconsistent, dtype=np.intp))
        culprits = tuple(sorted({*culprits, *lying}))
        lost = np.array(sorted(node for node, seed in seeds.items() if seed is None), dtype=np.intp)
        if lost.size:
            lying = roster.ids(np.array(recovered.inconsistent, dtype=np.intp))
            culprits = tuple(sorted({*culprits, *lying}))
            had = len(seeds) - len(lost)
            aborted = self._aborted(AbortReason.INVALID_SHARES, len(seeds), had, lost, culprits)
            return Ended(self.round), (*disputed, aborted)
        job = self._job({node: seed for node, seed in sorted(seeds.items()) if seed})
        included = roster.ids_of(self._survives)
        recovery = Recovery(job, self._unmasking.masked_sum, included, culprits, noise_keys)
        return recovery, (*disputed, UnmaskReady(job))

    def _job(self, seeds: dict[int, bytes]) -> UnmaskJob:
        """Return the job of the recovered seeds: keys are agreed on only where the survivor did not answer."""
        roster = self._roster
        vanished = np.array([node for node in seeds if not self._survives[node]], dtype=np.intp)
        added, subtracted = self._keys_handed_over(vanished)
        peers = {node: self._silent_peers(node) for node in vanished.tolist()}
        return UnmaskJob(
            session_id=self._setup.session_id,
            ring_bits=self._setup.params.ring_bits,
            vector_length=self._setup.params.vector_length,
            self_mask_seeds=tuple(
                (roster.client_ids[node], seed) for node, seed in seeds.items() if self._survives[node]
            ),
            recovered=tuple(
                RecoveredMaskKey(roster.client_ids[node], seeds[node], roster.ids(silent), self._keys_of(silent))
                for node, silent in peers.items()
                if silent.size
            ),
            added_keys=added,
            subtracted_keys=subtracted,
        )

    def _keys_handed_over(self, vanished: npt.NDArray[np.intp]) -> tuple[bytes, bytes]:
        """Return the keys of these clients' masks that survivors added to the sum, and of those they subtracted."""
        if not self._setup.params.hands_over_pairwise_keys:
            return b"", b""
        # Nodes are in the order of the ids.
        adds = self._roster.graph.members[vanished] < vanished[:, None]
        keys, handed_over = self._pairwise_keys[self._row_of[vanished]], self._handed_over[self._row_of[vanished]]
        return keys[handed_over & adds].tobytes(), keys[handed_over & ~adds].tobytes()

    def _aborted(
        self,
        reason: AbortReason,
        needed: int,
        had: int,
        owners: npt.NDArray[np.intp],
        culprits: tuple[ClientId, ...],
    ) -> Aborted:
        missing = tuple(sorted(self.invited - self.received))
        return Aborted(reason, self.round, needed, had, missing, self._roster.ids(owners), culprits)

    def _disputed(self, wrong: list[tuple[int, int]]) -> tuple[tuple[ServerEvent, ...], tuple[ClientId, ...]]:
        """Return the disputes and the clients that explain them; ``wrong`` holds owner and place of each share."""
        is_wrong = np.zeros_like(self._missing)
        is_wrong[tuple(np.array(wrong, dtype=np.intp).reshape(-1, 2).T)] = True
        nodes, places = np.nonzero(is_wrong | self._missing)
        client_ids = np.array(self._roster.client_ids)
        owners, holders = client_ids[nodes], client_ids[self._roster.graph.members[nodes, places]]
        returned = is_wrong[nodes, places]
        # The first suspect of a wrong share is its holder; of a share that the holder could not open, its owner.
        pairs = np.stack((np.where(returned, holders, owners), np.where(returned, owners, holders)), axis=1)
        culprits = tuple(explain(pairs))
        disputes = tuple(
            Dispute(owner, holder, ShareFault.WRONG if was_returned else ShareFault.MISSING)
            for owner, holder, was_returned in zip(owners.tolist(), holders.tolist(), returned.tolist(), strict=True)
        )
        return (SharesDisputed(disputes, culprits),) if disputes else (), culprits

    def _recover(self) -> RecoveredSecrets:
        return recover_secrets(
            np.flatnonzero(self._owners),
            self._roster.graph.members,
            self._held,
            self._shares,
            self._setup.params.threshold,
            self._is_secret_of,
            self._setup.entropy,
        )

    def _is_secret_of(self, node: int, seed: bytes) -> bool:
        """Tell whether a seed matches the public key that its client advertised, or its commitment."""
        session_id, client_id = self._setup.session_id, self._roster.client_ids[node]
        if self._survives[node]:
            commitment = self._unmasking.shared.seed_commitments[node].tobytes()
            return hmac.compare_digest(sharing.seed_commitment(seed, session_id, client_id), commitment)
        secret_key = mask_secret_key(seed, session_id, client_id)
        return hmac.compare_digest(secret_key.public_key(), self._roster.mask_public_keys[node].tobytes())

    def _silent_peers(self, node: int) -> npt.NDArray[np.intp]:
        """Return the survivors around a vanished client that handed over no key."""
        neighborhood = self._roster.graph.neighborhood(node)
        silent = self._survives[neighborhood]
        if self._setup.params.hands_over_pairwise_keys:
            silent &= ~self._handed_over[self._row_of[node]]
        return neighborhood[silent]

    def _keys_of(self, nodes: npt.NDArray[np.intp]) -> tuple[bytes, ...]:
        keys = self._roster.mask_public_keys[nodes].tobytes()
        return tuple(keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))


class Recovery(Stage):
    """The stage in which the host computes the masks from the recovered secrets."""

    round = Round.UNMASKING

    def __init__(
        self,
        job: UnmaskJob,
        masked_sum: ring.RingVector,
        included: tuple[ClientId, ...],
        culprits: tuple[ClientId, ...],
        noise_keys: Mapping[int, Mapping[ClientId, bytes]],
    ) -> None:
        super().__init__(())
        # Keep the identifiers of the job, not the job: the host runs it and forgets its seeds.
        self._session_id, self._ring_bits, self._num_masks = job.session_id, job.ring_bits, job.num_masks
        self._sum = masked_sum
        self._included = included
        self._culprits = culprits
        self._noise_keys = noise_keys

    def finish(self, masks: MaskSum) -> Completed:
        """Subtract the masks from the sum; LocalProtocolError if ``masks`` is not the job's result."""
        if not isinstance(masks, MaskSum) or masks.session_id != self._session_id:
            raise LocalProtocolError("finish() needs the result of UnmaskJob.run or combine of this session")
        if masks.num_masks != self._num_masks:
            raise LocalProtocolError(f"{masks.num_masks} masks, but the job has {self._num_masks}: combine() its parts")
        vector = masks.vector
        if not ring.is_vector(vector, len(self._sum), self._ring_bits):
            raise LocalProtocolError(
                f"finish() needs the job's result: shape {self._sum.shape}, dtype {self._sum.dtype}"
            )
        total = self._sum - vector
        ring.reduce_in_place(total, self._ring_bits)
        return Completed(total, self._included, self._culprits, self._noise_keys)
