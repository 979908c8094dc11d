"""Statistics of values that clients keep: sums, means, histograms and quantiles, with differential privacy.

    query = PrivateQuery(length=len(edges) - 1, clip=1.0, epsilon=1.0, delta=1e-6, num_clients=1000, dropout=0.1)
    vector = query.encode(histogram([age], edges), context=b"ages, 2026")            # on each client
    counts = query.total(completed, context=b"ages, 2026")                           # on the server
    at_least(counts, 20), quantile(counts, edges, 0.5)

The sessions in between are those of `secagg`, with `query.parameters`.
"""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fl.privacy.budget import Budget
from fl.privacy.mechanism import rotation_seed
from fl.privacy.planner import plan_private
from fl.privacy.rotation import FloatVector
from secagg import Completed, EntropySource, Parameters
from secagg.algebra.ring import RingVector


class PrivateQuery:
    """One noisy sum of the clients' vectors. A client that answers it has spent its epsilon, also if it fails.

    Args:
        length: number of elements of a vector: 1 for a number, the number of bins for a histogram.
        clip: vectors are scaled down to this L2 norm; a client with one value in a histogram has norm 1.
        epsilon, delta: the bound on what the sum says of one client.
        num_clients: number of clients that are asked.
        model: dropout, corrupt, adversary and threshold, as for `plan_private`.

    Attributes:
        plan: the numbers, with their reasons.

    Raises:
        PlanError: the numbers do not work together.
    """

    def __init__(self, *, length: int, clip: float, epsilon: float, delta: float, num_clients: int, **model: object):
        budget = Budget(epsilon=epsilon, delta=delta, rounds=1, clip=clip)
        self.plan = plan_private(budget, num_clients=num_clients, length=length, **model)  # type: ignore[arg-type]

    @property
    def parameters(self) -> Parameters:
        """Return the parameters of the session."""
        return self.plan.session.parameters

    @property
    def stddev(self) -> float:
        """Return the standard deviation of an element's noise and rounding if all clients answer; else it is less."""
        return self.plan.mechanism.stddev(self.parameters.num_clients)

    def encode(self, vector: npt.ArrayLike, *, context: bytes, entropy: EntropySource = os.urandom) -> RingVector:
        """Return a client's input for the session, with its noise.

        Args:
            vector: shape (length,), or a number if the length is 1.
            context: names the query, the same for all; give it to the session too.
            entropy: source of the noise.

        Raises:
            ValueError: the vector has another shape, or is not finite.
        """
        values = np.atleast_1d(np.asarray(vector, dtype=np.float64))
        rng = np.random.default_rng(int.from_bytes(entropy(16), "little"))
        return self.plan.mechanism.encode(values, rotation=rotation_seed(context), rng=rng, entropy=entropy)

    def total(self, completed: Completed, *, context: bytes) -> FloatVector:
        """Return the noisy sum of the vectors, float64, shape (length,)."""
        return self.plan.mechanism.decode(completed.sum, rotation=rotation_seed(context))[0]

    def mean(self, completed: Completed, *, context: bytes) -> FloatVector:
        """Return the noisy mean of the vectors, float64, shape (length,); the number of clients is public."""
        return self.total(completed, context=context) / len(completed.included)


def histogram(values: Sequence[float] | npt.NDArray[np.floating], edges: Sequence[float]) -> FloatVector:
    """Return the number of values in each bin, float64, shape (len(edges) - 1,); outer bins take what is beyond."""
    inner = np.asarray(edges, dtype=np.float64)[1:-1]
    places = np.searchsorted(inner, np.asarray(values, dtype=np.float64), side="right")
    return np.bincount(places, minlength=len(inner) + 1).astype(np.float64)


def at_least(counts: FloatVector, fewest: float) -> FloatVector:
    """Return noisy counts with 0 in place of all below ``fewest``, which would single out few clients, or be noise."""
    return np.where(counts < fewest, 0.0, counts)


def quantile(counts: FloatVector, edges: Sequence[float], share: float) -> float:
    """Return the value below which this share of a noisy histogram lies, linear within its bin.

    Raises:
        ValueError: the share is not between 0 and 1, or no bin has a positive count.
    """
    positive = np.maximum(counts, 0.0)
    reached = np.concatenate([[0.0], np.cumsum(positive)])
    if not 0 <= share <= 1 or reached[-1] <= 0:
        raise ValueError(f"no quantile {share} of {reached[-1]:g} values")
    return float(np.interp(share * reached[-1], reached, np.asarray(edges, dtype=np.float64)))
