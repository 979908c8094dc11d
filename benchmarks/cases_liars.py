"""What clients that lie about shares make the server compute, beside the same work where nobody lies."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.case import Case
from benchmarks.interleave import Work
from secagg._server.share_recovery import RecoveredSecrets, explain, recover_secrets
from secagg.algebra import shamir
from secagg.algebra.field import PRIME
from secagg.graph import CompleteGraph
from secagg.sharing import LIMBS, ShareArray, limbs_to_seed


def recovery(clients: int) -> Case:
    """Everyone's secret on the complete graph, where liars about everybody are one more than decoding can bear."""
    threshold = 2 * clients // 3 + 1
    liars = (clients - threshold) // 2 + 1

    def build() -> tuple[Work, Work]:
        rng = np.random.default_rng(1)
        limbs = rng.integers(1 << 15, size=(clients, LIMBS), dtype=np.uint16)
        # A seed has 128 bits, which the last limb has 8 of.
        limbs[:, -1] >>= 7
        coefficients = rng.integers(PRIME, size=(threshold - 1, clients * LIMBS), dtype=np.uint16)
        shares = shamir.share(limbs.ravel(), coefficients, clients).reshape(clients, clients, LIMBS).swapaxes(0, 1)
        spoiled = shares.copy()
        spoiled[:, :liars] = rng.integers(PRIME, size=(clients, liars, LIMBS), dtype=np.uint16)
        seeds = [limbs_to_seed(row) for row in limbs]
        lost, found = _recovery(seeds, spoiled, threshold, rng.bytes), _recovery(seeds, shares, threshold, rng.bytes)
        assert not any(lost().seeds.values())
        assert all(found().seeds.values())
        return lost, found

    params = {"clients": clients, "liars": liars}
    of = "time over the recovery of as many secrets where nobody lies"
    return Case("recovery_with_liars", params, of, build, costs=True, rounds=7)


def _recovery(
    seeds: list[bytes | None], shares: ShareArray, threshold: int, entropy: Callable[[int], bytes]
) -> Callable[[], RecoveredSecrets]:
    members = CompleteGraph(len(seeds)).members
    held = np.ones(members.shape, dtype=bool)
    rows = np.arange(len(seeds))
    return lambda: recover_secrets(
        rows, members, held, shares, threshold, lambda row, seed: seed == seeds[row], entropy
    )


def explanation(clients: int) -> Case:
    """Who explains the disputes if a third of the clients say that they could open no share."""
    liars = -(-clients // 3) - 1

    def build() -> tuple[Work, Work]:
        owners, holders = np.indices((clients, liars)).reshape(2, -1)
        pairs: npt.NDArray[np.int64] = np.stack((owners, holders), axis=1)[owners != holders]
        keys = np.random.default_rng(2).permutation(pairs[:, 0] * clients + pairs[:, 1])
        assert explain(pairs) == list(range(liars))
        return lambda: explain(pairs), lambda: np.sort(keys)

    params = {"clients": clients, "liars": liars}
    return Case(
        "explanation", params, "time over sorting as many numbers as there are disputes", build, costs=True, rounds=7
    )
