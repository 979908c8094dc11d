"""The server's rounds: one collector each, which gathers its messages and, when closed, opens the next.

A collector knows who is awaited and who has answered; it returns why a client is to be dropped instead of raising,
since one client's bad message must not end the others' session.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secagg import sharing
from secagg.algebra import ring
from secagg.algebra.field import PRIME
from secagg.errors import LocalProtocolError
from secagg.events import (
    Aborted,
    AbortReason,
    ClientDropped,
    Completed,
    DropReason,
    Round,
    Send,
    ServerEvent,
    UnmaskReady,
)
from secagg.graph import Graph, NodeFlags
from secagg.masking import MaskSum, RecoveredMaskKey, UnmaskJob, mask_secret_key
from secagg.messages import (
    AdvertiseKeys,
    ClientMessage,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import ClientId, Parameters
from secagg.primitives.agreement import KEY_BYTES, is_valid_public_key
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS

GraphBuilder: TypeAlias = Callable[[int], Graph]
"""Makes the neighbour graph for so many advertised clients."""


@dataclass(frozen=True, slots=True)
class Session:
    """What does not change during a session."""

    params: Parameters
    session_id: bytes
    build_graph: GraphBuilder


@dataclass(frozen=True, slots=True)
class Directory:
    """The clients that advertised keys (U1), ascending, and who is whose neighbour; nodes are places in it."""

    client_ids: tuple[ClientId, ...]
    channel_public_keys: npt.NDArray[np.uint8]
    mask_public_keys: npt.NDArray[np.uint8]
    graph: Graph
    node_of: dict[ClientId, int]

    def ids(self, nodes: npt.NDArray[np.integer]) -> tuple[ClientId, ...]:
        return tuple(self.client_ids[node] for node in nodes.tolist())


class Stage:
    """A stage of the session. The base refuses everything: a stage in which no message is awaited."""

    round: Round

    def __init__(self, invited: frozenset[ClientId]) -> None:
        self.invited = invited
        self.awaited = set(invited)
        self.received: set[ClientId] = set()
        self.pending = set(invited)

    @property
    def ready(self) -> bool:
        """Whether closing now would not abort."""
        return False

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        """Take an awaited client's message, or say why that client is to be dropped."""
        return DropReason.UNEXPECTED_MESSAGE

    def drop(self, client_id: ClientId) -> None:
        """Forget a client that vanished; what a stage already used of it stays used."""
        self.awaited.discard(client_id)
        self.pending.discard(client_id)

    def close(self) -> "Closing":
        raise LocalProtocolError("there is no round to close now")


Closing: TypeAlias = tuple[Stage, tuple[ServerEvent, ...]]


class Ended(Stage):
    """The session is over."""

    def __init__(self, round_: Round) -> None:
        super().__init__(frozenset())
        self.round = round_


class AdvertiseKeysRound(Stage):
    round = Round.ADVERTISE_KEYS

    def __init__(self, session: Session, client_ids: frozenset[ClientId]) -> None:
        super().__init__(client_ids)
        self._session = session
        self._keys: dict[ClientId, AdvertiseKeys] = {}
        self._seen: set[bytes] = set()

    @property
    def ready(self) -> bool:
        return len(self._keys) >= self._session.params.quorum

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, AdvertiseKeys):
            return DropReason.UNEXPECTED_MESSAGE
        keys = (message.channel_public_key, message.mask_public_key)
        if not all(map(is_valid_public_key, keys)):
            return DropReason.INVALID_PUBLIC_KEY
        # Keys of a client that was dropped stay taken: whoever repeats them has copied them.
        if keys[0] == keys[1] or not self._seen.isdisjoint(keys):
            return DropReason.KEY_NOT_DISTINCT
        self._seen.update(keys)
        self._keys[client_id] = message
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)
        self._keys.pop(client_id, None)

    def close(self) -> Closing:
        client_ids = tuple(sorted(self._keys))
        if not self.ready:
            return _too_few(self, self._session.params, set(client_ids))
        directory = Directory(
            client_ids=client_ids,
            channel_public_keys=_key_array([self._keys[i].channel_public_key for i in client_ids]),
            mask_public_keys=_key_array([self._keys[i].mask_public_key for i in client_ids]),
            graph=self._session.build_graph(len(client_ids)),
            node_of={client_id: node for node, client_id in enumerate(client_ids)},
        )
        sends: list[ServerEvent] = []
        previous, message = None, None
        for node, client_id in enumerate(client_ids):
            neighborhood = directory.graph.neighborhood(node)
            # In the complete graph everyone's neighbourhood is the same array: one message object serves all.
            if message is None or neighborhood is not previous:
                previous = neighborhood
                message = PeerKeys(
                    self._session.session_id,
                    client_ids=directory.ids(neighborhood),
                    channel_public_keys=directory.channel_public_keys[neighborhood].tobytes(),
                    mask_public_keys=directory.mask_public_keys[neighborhood].tobytes(),
                )
            sends.append(Send(client_id, message))
        return ShareKeysRound(self._session, directory), tuple(sends)


class ShareKeysRound(Stage):
    round = Round.SHARE_KEYS

    def __init__(self, session: Session, directory: Directory) -> None:
        super().__init__(frozenset(directory.client_ids))
        self._session = session
        self._directory = directory
        self._shared = np.zeros(len(directory.client_ids), dtype=bool)
        # [sender, place of the receiver in the sender's neighbourhood]
        self._encrypted_shares = np.zeros(
            (len(directory.client_ids), directory.graph.neighborhood_size, ENCRYPTED_SHARES_BYTES),
            dtype=np.uint8,
        )

    @property
    def ready(self) -> bool:
        return bool(self._connected().any())

    def _connected(self) -> NodeFlags:
        """Those that shared keys with enough others that did: the rest could not be unmasked should they vanish."""
        connected = self._shared.copy()
        while True:
            lonely = connected & (self._directory.graph.count(connected) < self._session.params.quorum)
            if not lonely.any():
                return connected
            connected &= ~lonely

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, ShareKeys):
            return DropReason.UNEXPECTED_MESSAGE
        node = self._directory.node_of[client_id]
        receivers = np.flatnonzero(self._directory.graph.neighborhood(node) != node)
        if len(message.encrypted_shares) != len(receivers) * ENCRYPTED_SHARES_BYTES:
            return DropReason.WRONG_SIZE
        items = np.frombuffer(message.encrypted_shares, dtype=np.uint8).reshape(-1, ENCRYPTED_SHARES_BYTES)
        self._encrypted_shares[node, receivers] = items
        self._shared[node] = True
        return None

    def drop(self, client_id: ClientId) -> None:
        super().drop(client_id)
        self.received.discard(client_id)
        self._shared[self._directory.node_of[client_id]] = False

    def close(self) -> Closing:
        directory = self._directory
        connected = self._connected()
        if not connected.any():
            return _too_few(self, self._session.params, set(directory.ids(np.flatnonzero(self._shared))))
        events = _drop_lonely(self.round, directory, self._shared & ~connected)
        previous, flags = None, ()
        for node in np.flatnonzero(connected).tolist():
            neighborhood = directory.graph.neighborhood(node)
            if neighborhood is not previous:
                previous, flags = neighborhood, tuple(connected[neighborhood].tolist())
            senders = connected[neighborhood] & (neighborhood != node)
            items = self._encrypted_shares[neighborhood[senders], directory.graph.places_of(node)[senders]]
            message = PeerShares(self._session.session_id, flags, items.tobytes())
            events.append(Send(directory.client_ids[node], message))
        return MaskedInputRound(self._session, directory, connected), tuple(events)


class MaskedInputRound(Stage):
    round = Round.MASKED_INPUT_COLLECTION

    def __init__(self, session: Session, directory: Directory, shared: NodeFlags) -> None:
        super().__init__(frozenset(directory.ids(np.flatnonzero(shared))))
        self._session = session
        self._directory = directory
        self._shared = shared
        self._survives = np.zeros_like(shared)
        # Inputs are added as they arrive: one vector of memory, however many clients.
        self._sum = ring.zeros(session.params.vector_length, session.params.ring_bits)

    @property
    def ready(self) -> bool:
        answering = self._answering()
        return bool(answering.any()) and self._fewest_holders(answering) >= self._session.params.threshold

    def accept(self, client_id: ClientId, message: ClientMessage) -> DropReason | None:
        if not isinstance(message, MaskedInput):
            return DropReason.UNEXPECTED_MESSAGE
        vector, params = message.masked_input, self._session.params
        if not ring.is_vector(vector, params.vector_length, params.ring_bits):
            return DropReason.WRONG_SIZE
        np.add(self._sum, vector, out=self._sum)
        self._survives[self._directory.node_of[client_id]] = True
        return None

    def _alive(self) -> NodeFlags:
        """Survivors that are still there to answer: one that vanishes after its input stays in the sum."""
        alive = np.zeros_like(self._survives)
        alive[[self._directory.node_of[client_id] for client_id in self.received & self.awaited]] = True
        return alive

    def _answering(self) -> NodeFlags:
        """Those of them that will answer: with fewer survivors around it, a client refuses."""
        return self._alive() & (self._directory.graph.count(self._survives) >= self._session.params.quorum)

    def _fewest_holders(self, answering: NodeFlags) -> int:
        """Of all secrets that have to be recovered, the fewest shares that can still come in."""
        holders = self._directory.graph.count(answering)
        if not self._session.params.is_complete:
            holders -= answering
        return int(holders[_owners(self._directory, self._shared, self._survives)].min(initial=len(holders)))

    def close(self) -> Closing:
        params, directory = self._session.params, self._directory
        answering = self._answering()
        if not answering.any():
            return _too_few(self, params, set(directory.ids(np.flatnonzero(self._alive()))))
        if (had := self._fewest_holders(answering)) < params.threshold:
            missing = tuple(sorted(self.invited - set(directory.ids(np.flatnonzero(answering)))))
            aborted = Aborted(AbortReason.TOO_FEW_CLIENTS, self.round, params.threshold, had, missing)
            return Ended(self.round), (aborted,)
        events = _drop_lonely(self.round, directory, self._alive() & ~answering)
        previous, message = None, None
        for node in np.flatnonzero(answering).tolist():
            neighborhood = directory.graph.neighborhood(node)
            if message is None or neighborhood is not previous:
                previous = neighborhood
                survivors = tuple(self._survives[neighborhood].tolist())
                message = SurvivorList(self._session.session_id, survivors)
            events.append(Send(directory.client_ids[node], message))
        unmasking = UnmaskingRound(self._session, directory, self._shared, self._survives, answering, self._sum)
        return unmasking, tuple(events)


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
        return np.flatnonzero(_owners(self._directory, self._shared, self._survives) & ~enough)

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
        owners = np.flatnonzero(_owners(self._directory, self._shared, self._survives))
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


def _key_array(keys: list[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)


def _owners(directory: Directory, shared: NodeFlags, survives: NodeFlags) -> NodeFlags:
    """Whose masks are in the sum: the survivors, and those that vanished and have a survivor for a neighbour."""
    return shared & (survives | (directory.graph.count(survives) > 0))


def _drop_lonely(round_: Round, directory: Directory, lonely: NodeFlags) -> list[ServerEvent]:
    return [
        ClientDropped(client_id, DropReason.TOO_FEW_NEIGHBORS, round_)
        for client_id in directory.ids(np.flatnonzero(lonely))
    ]


def _too_few(stage: Stage, params: Parameters, left: set[ClientId]) -> Closing:
    missing = tuple(sorted(stage.invited - left))
    # On a sparse graph there may be enough of them, but no neighbourhood in which there are.
    had = len(left) if len(left) < params.quorum else 0
    return Ended(stage.round), (Aborted(AbortReason.TOO_FEW_CLIENTS, stage.round, params.quorum, had, missing),)
