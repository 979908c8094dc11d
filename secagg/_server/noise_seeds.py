"""The server's recovery of the seeds of noise components that the sum does not need (`secagg.noise`)."""

import hmac
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from secagg import noise
from secagg._server.share_recovery import RecoveredSecrets, recover_secrets
from secagg._server.stage import Roster, ServerSetup, Shared
from secagg.graph import NodeFlags
from secagg.params import ClientId
from secagg.sharing import LIMBS, SHARE_BYTES, InvalidSharesError, shares_from_bytes


class NoiseSeeds:
    """The holders' shares of the seeds of the removed components, one for each survivor and component.

    Sessions with noise components have the complete graph, so a holder has the same place for all owners.
    """

    def __init__(self, setup: ServerSetup, roster: Roster, shared: Shared, survives: NodeFlags) -> None:
        self._setup, self._roster, self._shared, self._survives = setup, roster, shared, survives
        self._removed = np.array(noise.removed_components(setup.params, int(survives.sum())), dtype=np.intp)
        # [component, owner of the seed, place of the holder]
        nodes = len(roster.client_ids) if len(self._removed) else 0
        self._shares = np.zeros((len(self._removed), nodes, nodes, LIMBS), dtype=np.uint16)

    def accept(self, node: int, held: NodeFlags, pads: bytes) -> bool:
        """Take a holder's pads for the survivors that it holds; return whether they are of the right size and range."""
        if held.shape != self._survives.shape or not len(self._removed):
            return not pads
        owners = np.flatnonzero(held & self._survives)
        if len(pads) != SHARE_BYTES * len(owners) * len(self._removed):
            return False
        try:
            shares = shares_from_bytes(pads).reshape(len(owners), len(self._removed), LIMBS)
        except InvalidSharesError:
            return False
        corrected = node - (self._setup.params.threshold - 1)
        if corrected >= 0:
            shares = noise.add(shares, self._shared.noise_corrections[owners, corrected][:, self._removed - 1])
        self._shares[:, owners, node] = shares.transpose(1, 0, 2)
        return True

    def recover(self, held: npt.NDArray[np.bool_]) -> tuple[dict[int, dict[ClientId, bytes]], RecoveredSecrets]:
        """Return the noise keys of each removed component, and what the recovery found, its rows as nodes.

        Args:
            held: flags of the shares that arrived, shape (owners, places).
        """
        keys: defaultdict[int, dict[ClientId, bytes]] = defaultdict(dict)
        if not len(self._removed):
            return {}, RecoveredSecrets()
        count, nodes = self._shares.shape[:2]
        owners = np.flatnonzero(self._survives)
        found = recover_secrets(
            (np.arange(count)[:, None] * nodes + owners).ravel(),
            np.tile(self._roster.graph.members, (count, 1)),
            np.tile(held, (count, 1)),
            self._shares.reshape(count * nodes, nodes, LIMBS),
            self._setup.params.threshold,
            self._is_seed_of,
            self._setup.entropy,
        )
        for row, seed in sorted(found.seeds.items()):
            if seed is not None:
                component, client_id = self._component_and_owner(row)
                keys[component][client_id] = noise.noise_key(seed, self._setup.session_id, client_id, component)
        by_node = RecoveredSecrets(
            wrong=sorted({(row % nodes, place) for row, place in found.wrong}),
            inconsistent=sorted({row % nodes for row in found.inconsistent}),
        )
        return dict(keys), by_node

    def _component_and_owner(self, row: int) -> tuple[int, ClientId]:
        component, node = divmod(row, self._shares.shape[1])
        return int(self._removed[component]), self._roster.client_ids[node]

    def _is_seed_of(self, row: int, seed: bytes) -> bool:
        component, client_id = self._component_and_owner(row)
        node = row % self._shares.shape[1]
        expected = self._shared.noise_commitments[node, component - 1].tobytes()
        return hmac.compare_digest(noise.commitment(seed, self._setup.session_id, client_id, component), expected)
