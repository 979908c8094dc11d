"""The server's last round, Unmasking, and the recovery of the masks that follows it."""

import numpy as np
import numpy.typing as npt

from secagg import sharing
from secagg._server_stages import Closing, Directory, Ended, Session, Stage, owners_of_masks
from secagg.algebra import ring
from secagg.algebra.field import PRIME
from secagg.errors import LocalProtocolError
from secagg.events import Aborted, AbortReason, Completed, DropReason, Round, UnmaskReady
from secagg.graph import NodeFlags
from secagg.masking import MaskSum, RecoveredMaskKey, UnmaskJob, mask_secret_key
from secagg.messages import ClientMessage, UnmaskingShares
from secagg.params import ClientId
from secagg.primitives.agreement import KEY_BYTES
from secagg.sharing import LIMBS


class UnmaskingRound(Stage):
    round = Round.UNMASKING

    def __init__(
        self,
        session: Session,
        directory: Directory,
        shared: NodeFlags,
        survives: NodeFlags,
        answering: NodeFlags,
        masked_sum: ring.RingVector,
    ) -> None:
        super().__init__(frozenset(directory.ids(np.flatnonzero(answering))))
        self._session = session
        self._directory = directory
        self._shared = shared
        self._survives = survives
        self._sum = masked_sum
        # [owner of the secret, place of the holder in the owner's neighbourhood]
        shape = (len(directory.client_ids), directory.graph.neighborhood_size)
        self._held = np.zeros(shape, dtype=bool)
        self._shares = np.zeros((*shape, LIMBS), dtype=np.uint16)

    @property
    def ready(self) -> bool:
        return not self._lacking().size

    def _lacking(self) -> npt.NDArray[np.intp]:
        """Owners of whose secret fewer shares than the threshold came in."""
        enough = self._held.sum(axis=1) >= self._session.params.threshold
        return np.flatnonzero(owners_of_masks(self._directory, self._shared, self._survives) & ~enough)

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, UnmaskingShares):
            return DropReason.UNEXPECTED_MESSAGE
        graph = self._directory.graph
        node = self._directory.node_of[client_id]
        neighborhood = graph.neighborhood(node)
        held = np.array(message.held, dtype=bool)
        if (
            held.shape != neighborhood.shape
            or np.any(held & ~self._shared[neighborhood])
            or message.shares.shape != (int(held.sum()), LIMBS)
            or np.any(message.shares >= PRIME)
        ):
            return DropReason.WRONG_SIZE
        owners, places = neighborhood[held], graph.places_of(node)[held]
        self._shares[owners, places] = message.shares
        self._held[owners, places] = True
        return None

    def close(self) -> Closing:
        params, directory = self._session.params, self._directory
        lacking = self._lacking()
        if lacking.size:
            had = int(self._held[lacking].sum(axis=1).min())
            return Ended(self.round), (self._aborted(AbortReason.TOO_FEW_SHARES, params.threshold, had, lacking),)
        seeds = self._reconstruct()
        survivors = np.flatnonzero(self._survives)
        invalid = [node for node, seed in seeds.items() if seed is None]
        self_mask_seeds: list[tuple[ClientId, bytes]] = []
        recovered: list[RecoveredMaskKey] = []
        for node, seed in seeds.items():
            client_id = directory.client_ids[node]
            if seed is None:
                continue
            if self._survives[node]:
                self_mask_seeds.append((client_id, seed))
            elif self._opens(node, seed):
                recovered.append(RecoveredMaskKey(client_id, seed, *self._surviving_peers(node)))
            else:
                invalid.append(node)
        if invalid:
            valid = len(seeds) - len(invalid)
            owners = np.array(sorted(invalid), dtype=np.intp)
            return Ended(self.round), (self._aborted(AbortReason.INVALID_SHARES, len(seeds), valid, owners),)
        job = UnmaskJob(
            session_id=self._session.session_id,
            ring_bits=params.ring_bits,
            vector_length=params.vector_length,
            self_mask_seeds=tuple(self_mask_seeds),
            recovered=tuple(recovered),
        )
        return Recovery(job, self._sum, directory.ids(survivors)), (UnmaskReady(job),)

    def _aborted(self, reason: AbortReason, needed: int, had: int, owners: npt.NDArray[np.intp]) -> Aborted:
        missing = tuple(sorted(self.invited - self.received))
        return Aborted(reason, self.round, needed, had, missing, owners=self._directory.ids(owners))

    def _reconstruct(self) -> dict[int, bytes | None]:
        """The seed that is due of every client that shared keys, by node: one matrix product a set of holders.

        Where more shares than needed came in, the first and the last ``threshold`` of them must give the same seed: a
        wrong share is then noticed, and None is what it leaves.
        """
        threshold = self._session.params.threshold
        owners = np.flatnonzero(owners_of_masks(self._directory, self._shared, self._survives))
        held = self._held[owners]
        number = np.cumsum(held, axis=1)
        first = held & (number <= threshold)
        last = held & (number > number[:, -1:] - threshold)
        # Owners with the same holders are reconstructed together.
        patterns = np.packbits(np.concatenate((first, last), axis=1), axis=1)
        _, group_of = np.unique(patterns, axis=0, return_inverse=True)
        seeds: dict[int, bytes | None] = {}
        for group in range(int(group_of.max(initial=-1)) + 1):
            members = np.flatnonzero(group_of.reshape(-1) == group)
            nodes, a_member = owners[members], members[0]
            found = self._seeds_from(nodes, first[a_member])
            if not np.array_equal(first[a_member], last[a_member]):
                again = self._seeds_from(nodes, last[a_member])
                found = [one if one == other else None for one, other in zip(found, again, strict=True)]
            seeds.update(zip(nodes.tolist(), found, strict=True))
        return seeds

    def _seeds_from(self, owners: npt.NDArray[np.intp], holders: npt.NDArray[np.bool_]) -> list[bytes | None]:
        """These owners' seeds from the shares of these holders, flags by place."""
        places = np.flatnonzero(holders)
        return sharing.reconstruct_seeds(places, self._shares[owners[None, :], places[:, None]])

    def _opens(self, node: int, seed: bytes) -> bool:
        """Whether a reconstructed mask key is the one whose public key was advertised."""
        secret_key = mask_secret_key(seed, self._session.session_id, self._directory.client_ids[node])
        return secret_key.public_key() == bytes(self._directory.mask_public_keys[node])

    def _surviving_peers(self, node: int) -> tuple[tuple[ClientId, ...], tuple[bytes, ...]]:
        neighborhood = self._directory.graph.neighborhood(node)
        peers = neighborhood[self._survives[neighborhood]]
        keys = self._directory.mask_public_keys[peers].tobytes()
        return self._directory.ids(peers), tuple(keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES))


class Recovery(Stage):
    """The shares are in; the masks are being computed, wherever the host runs the job."""

    round = Round.UNMASKING

    def __init__(self, job: UnmaskJob, masked_sum: ring.RingVector, included: tuple[ClientId, ...]) -> None:
        super().__init__(frozenset())
        # What identifies the job, not the job: its seeds are the host's to run and to forget.
        self._session_id, self._ring_bits, self._num_masks = job.session_id, job.ring_bits, job.num_masks
        self._sum = masked_sum
        self._included = included

    def finish(self, masks: MaskSum) -> Completed:
        """Take the masks off. LocalProtocolError if ``masks`` is not the job's result; call again then."""
        if not isinstance(masks, MaskSum) or masks.session_id != self._session_id:
            raise LocalProtocolError("finish() takes what UnmaskJob.run or combine returned for this session")
        if masks.num_masks != self._num_masks:
            raise LocalProtocolError(f"{masks.num_masks} masks, but the job has {self._num_masks}: combine() its parts")
        vector = masks.vector
        if not ring.is_vector(vector, len(self._sum), self._ring_bits):
            raise LocalProtocolError(
                f"finish() takes the job's result: shape {self._sum.shape}, dtype {self._sum.dtype}"
            )
        total = self._sum - vector
        ring.reduce_in_place(total, self._ring_bits)
        return Completed(total, self._included)
