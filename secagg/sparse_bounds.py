"""Compute the degree and threshold of the sparse graph (Bell et al. 2020, section 3 and appendix).

With n clients of which A are corrupt and D vanish, B = A + D, on a randomly relabelled Harary graph of even degree k:

- the graph without those B clients stays connected, except with probability 2^-(sigma+1);
- no honest client has more than t1 corrupt neighbours, except with probability 2^-(sigma+1), by a union bound over
  clients and the hypergeometric tail; against a semi-malicious server, which may ask each honest neighbour for either
  share, but not both, t1 becomes ceil((t1 + k - 1.25) / 2);
- every client keeps more than t2 neighbours that do not vanish, except with probability 2^-eta;
- a threshold exists: t = max(t1 + 1, 2) <= t2, or a larger one if clients ask for sums of more inputs.

The tails are those of k clients drawn from all n, although a client's neighbours are drawn from the n - 1 others (with
A corrupt ones if the client is honest, and n - D - 1 that stay if the client stays).  Summed over all clients the two
agree: the neighbours of a random client are k random ones of all n, so n times the tail is exactly the union bound.
Google's planner (fcp) gives other numbers for ten clients of which a third vanish: degree 4 and threshold 2, although
one neighbour alone may remain.  Here it is degree 6.
"""

from bisect import bisect_left
from functools import cached_property
from math import ceil, log

import numpy as np
import numpy.typing as npt

SECURITY_BITS = 40
"""sigma: the graph is unsafe with probability at most 2^-sigma."""

CORRECTNESS_BITS = 20
"""eta: the session fails with probability at most 2^-eta, if no more clients vanish than expected."""

MOST_CLIENTS = 1 << 20
"""The largest session: a client needs about 30 bytes of memory for each client to check that a plan is safe."""

_LN2 = log(2)


def fewest_inputs(threshold: int, degree: int, *, lies: bool) -> int:
    """Return the fewest inputs in a sum on a sparse graph, an honest client's included, if no client is corrupt.

    A client answers if at least ``threshold`` neighbours remain, and it shares a mask with each. A lying server can
    reduce that to 2t - k + 1 inputs (docs/threat-model.md, "Never alone").
    """
    return 2 * threshold - degree + 1 if lies else threshold + 1


class SparseBounds:
    """The conditions above for given n, A and D.

    Args:
        num_clients: n.
        corrupt_clients: A.
        dropouts: D.
        remaining: ceil((1 - dropout) * n).
        semi_malicious: whether the server may lie once the keys are exchanged.
        min_inputs: the fewest inputs that clients accept in a sum; see `fewest_inputs`.
    """

    def __init__(
        self,
        num_clients: int,
        corrupt_clients: int,
        dropouts: int,
        remaining: int,
        *,
        semi_malicious: bool,
        min_inputs: int = 2,
    ) -> None:
        self._n = num_clients
        self._corrupt = corrupt_clients
        self._missing = corrupt_clients + dropouts
        self._remaining = remaining
        self._semi_malicious = semi_malicious
        self._min_inputs = min_inputs

    def smallest(self) -> tuple[int, int] | None:
        """Return the smallest even degree below n - 1 that fits, with its threshold; None if no degree fits.

        More neighbours never disconnect the graph, so bisection finds the first degree that connects it. Thresholds are
        not monotone: a degree may fit and the next one not. But with two more neighbours t2 grows by at most two, while
        the least safe threshold does not fall, and against a lying server grows by at least one. So the difference of
        the two tells how many degrees cannot fit, and the search skips exactly those.
        """
        if not self._possible_at_all():
            return None
        degrees = range(2, self._n - 1, 2)
        place = bisect_left(degrees, True, key=self._connected)
        while place < len(degrees):
            degree = degrees[place]
            safe = self._safe_threshold(degree)
            lacking = safe - self.fewest_remaining_neighbors(degree)
            if lacking <= 0:
                return degree, safe
            place += lacking if self._semi_malicious else (lacking + 1) // 2
        return None

    def threshold(self, degree: int) -> int | None:
        """Return the threshold with which this degree is safe and works, or None."""
        safe = self._safe_threshold(degree)
        return safe if safe <= self.fewest_remaining_neighbors(degree) and self._connected(degree) else None

    def _safe_threshold(self, degree: int) -> int:
        """Return the least threshold above the corrupt neighbours of any client, with enough inputs in a sum."""
        corrupt = self._most_corrupt_neighbors(degree)
        if self._semi_malicious:
            corrupt = ceil((corrupt + degree - 1.25) / 2)
        # The least t for which `fewest_inputs` reaches min_inputs.
        hiding = (self._min_inputs + degree) // 2 if self._semi_malicious else self._min_inputs - 1
        return max(corrupt + 1, hiding, 2)

    def _possible_at_all(self) -> bool:
        """Return whether a threshold would exist at unlimited degree, where the tails vanish."""
        corrupt, remaining = self._corrupt / self._n, self._remaining / self._n
        return remaining > ((1 + corrupt) / 2 if self._semi_malicious else corrupt)

    @cached_property
    def _ln_factorial(self) -> npt.NDArray[np.float64]:
        """Return ln i! for i = 0..n."""
        return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, self._n + 1, dtype=np.float64)))))

    def _connected(self, degree: int) -> bool:
        n, missing = self._n, self._missing
        if degree > missing:
            return True
        # G(x) = (x-1)!
        table = self._ln_factorial
        probability = (
            log(n)
            + log(n - degree - 1)
            - _LN2
            + float(table[missing] + table[n - degree] - table[n] - table[missing - degree])
        )
        return probability < -(SECURITY_BITS + 1) * _LN2

    def _neighbor_probabilities(self, kind: int, degree: int) -> npt.NDArray[np.float64]:
        """Return P[X = x], x = 0..degree, for X ~ Hypergeometric(n, kind, degree): the neighbours of one kind."""
        table, n = self._ln_factorial, self._n
        x = np.arange(degree + 1)
        possible = (x <= kind) & (degree - x <= n - kind)
        inside = x[possible]
        probabilities = np.zeros(degree + 1)
        probabilities[possible] = np.exp(
            (table[kind] - table[inside] - table[kind - inside])
            + (table[n - kind] - table[degree - inside] - table[n - kind - degree + inside])
            - (table[n] - table[degree] - table[n - degree])
        )
        return probabilities

    def _most_corrupt_neighbors(self, degree: int) -> int:
        """Return t1, the least t with P[X > t] < 2^-(sigma+1) / n."""
        probabilities = self._neighbor_probabilities(self._corrupt, degree)
        # Sum from the far end, where the terms are smallest: above[t] = P[X > t].
        above = np.append(np.cumsum(probabilities[::-1])[::-1][1:], 0.0)
        return int(np.argmax(above < 2.0 ** -(SECURITY_BITS + 1) / self._n))

    def fewest_remaining_neighbors(self, degree: int) -> int:
        """Return t2, the least t with P[X <= t] >= 2^-eta / n; fewer remain with probability at most 2^-eta."""
        up_to = np.cumsum(self._neighbor_probabilities(self._remaining, degree))
        return int(np.argmax(up_to >= 2.0**-CORRECTNESS_BITS / self._n))
