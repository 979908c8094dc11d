"""Compute the cost of rounds: Rényi differential privacy of noisy sums, sampled and composed, as (epsilon, delta).

With D2, D1 the bounds on a client's integers and mu the variance of the summed noise, at each integer order a >= 2:

- Skellam (Agarwal, Kairouz, Liu 2021, theorem 3.5):
  a D2^2 / 2mu + min( ((2a - 1) D2^2 + 6 D1) / 4mu^2, 3 D1 / 2mu ).
- n discrete Gaussians of parameter v (Kairouz, Liu, Steinke 2021, theorem 1): with mu = n v, l = D2/sqrt mu,
  l1 = D1/sqrt mu and tau = 10 sum_{k=1}^{n-1} e^(-2 pi^2 v k/(k+1)), the least of
  a l^2/2 + tau D,   a/2 (l^2 + 2 l1 tau + tau^2 D)   and   a/2 (l + sqrt(D) tau)^2.
- Poisson sampling at rate q: see `poisson_sampled`, tighter than the bound for all mechanisms (Zhu, Wang 2019).
- Rounds add up, order by order.
- Conversion (Canonne, Kamath, Steinke 2020, proposition 12): for each order
  epsilon = R(a) + ln(1 - 1/a) - ln(a delta)/(a - 1).

The numbers are equal to those of Google's `dp-accounting`, which tests compare where it is installed.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fl.privacy.mechanism import Noise

Divergences = npt.NDArray[np.float64]
"""Bounds on the Rényi divergences at the `ORDERS`."""

ORDERS = np.arange(2, 257)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The facts about one round from which its privacy cost follows.

    Attributes:
        squared_l2, l1: the bounds on a client's integers (D2^2, D1).
        dimension: the number of its integers (D).
        noise: the distribution of the noise.
        variance: of one client's noise, in steps squared (v).
        honest: the fewest clients whose noise is in the sum and unknown to the adversary; mu is this many times v.
        sampling_rate: the probability with which a client takes part; 1 against observers who know who takes part.
    """

    squared_l2: int
    l1: float
    dimension: int
    noise: Noise
    variance: float
    honest: int
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        if not (
            min(self.squared_l2, self.l1, self.dimension, self.variance, self.honest) > 0 < self.sampling_rate <= 1
        ):
            raise ValueError(f"impossible numbers: {self}")

    def known(self) -> "Release":
        """Return the release for observers who know that a client took part, without the gain by sampling."""
        return replace(self, sampling_rate=1.0)

    def divergences(self) -> Divergences:
        """Return the bounds on the divergences of one round."""
        if self.noise is Noise.SKELLAM:
            unsampled = skellam(float(self.squared_l2), self.l1, self.honest * self.variance)
        else:
            unsampled = discrete_gaussians(self.squared_l2, self.l1, self.dimension, self.variance, self.honest)
        return poisson_sampled(unsampled, self.sampling_rate)


def skellam(squared_l2: float, l1: float, variance: float) -> Divergences:
    """Return the bounds for Skellam noise of this variance on integers within these norms."""
    discrete = np.minimum(((2 * ORDERS - 1) * squared_l2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
    bounds: Divergences = ORDERS * squared_l2 / (2 * variance) + discrete
    return bounds


def discrete_gaussians(squared_l2: float, l1: float, dimension: int, variance: float, clients: int) -> Divergences:
    """Return the bounds for the sum of ``clients`` discrete Gaussians of parameter ``variance`` in each coordinate."""
    k = np.arange(1, clients)
    tau = 10 * float(np.exp(-2 * math.pi**2 * variance * k / (k + 1)).sum())
    mu = clients * variance
    l2, l1 = math.sqrt(squared_l2 / mu), l1 / math.sqrt(mu)
    slopes = l2**2 + 2 * l1 * tau + tau**2 * dimension, (l2 + math.sqrt(dimension) * tau) ** 2
    return np.minimum(ORDERS / 2 * l2**2 + tau * dimension, ORDERS / 2 * min(slopes))


def poisson_sampled(divergences: Divergences, rate: float, *, symmetric: bool = True) -> Divergences:
    """Return the bounds if each client takes part with probability ``rate``, and nobody learns whether it did.

    The sum must have the same noise with and without the client; docs/privacy.md says how far that is so. With P the
    distribution of the sum without the client, Q with it, and M = (1-q) P + q Q, the binomial theorem gives

        R'(a) = 1/(a-1) ln( (1-q)^(a-1) (aq - q + 1) + sum_{l=2}^a C(a,l) (1-q)^(a-l) q^l e^((l-1) R(l)) )

    as a bound on D_a(M || P). **If the noise is symmetric, it is one on D_a(P || M) too**: z -> r - z swaps P, the
    noise, and Q, the noise shifted by r. So with rho = Q/P, the mean of g(rho) under P is that of rho g(1/rho), and it
    is enough that phi(u) + rho phi(w) >= 0 for phi(t) = t^a - t^(1-a), u = 1-q+q rho, w = 1-q+q/rho and rho >= 1. As
    u - 1 = -rho (w - 1), that says psi(u) >= psi(w) for psi(t) = phi(t)/(t-1). Now psi(u) = psi(1/u); w >= 1/u, since
    (uw - 1) rho = q(1-q) (rho-1)^2; and psi falls on (0, 1), where phi is concave. Mixtures over r, from random
    rounding, are no worse than the worst r, since the divergences are quasi-convex.

    Without symmetry, theorem 5 of Zhu and Wang (2019) has the terms from l = 3 three times.
    """
    if rate >= 1:
        return divergences
    exponents = _log_weights(rate, 1 if symmetric else 3) + np.concatenate([[0.0], (ORDERS - 1) * divergences])
    largest = exponents.max(axis=1)
    sums = largest + np.log(np.exp(exponents - largest[:, np.newaxis]).sum(axis=1))
    bounds: Divergences = np.minimum(np.maximum(sums, 0.0) / (ORDERS - 1), divergences)
    return bounds


@lru_cache(maxsize=8)
def _log_weights(rate: float, times: int) -> npt.NDArray[np.float64]:
    """Return the logarithms of the weights in `poisson_sampled`: a row for each a, columns for 1 and l = 2 .. 256."""
    a, terms = ORDERS[:, np.newaxis], ORDERS[np.newaxis, :]
    factorials = np.array([math.lgamma(k + 1) for k in range(ORDERS[-1] + 1)])
    present = np.log1p(-rate)
    chosen = factorials[a] - factorials[terms] - factorials[np.maximum(a - terms, 0)]
    weights = chosen + (a - terms) * present + terms * math.log(rate) + np.where(terms > 2, math.log(times), 0.0)
    weights[terms > a] = -np.inf
    none = (a - 1) * present + np.log1p((a - 1) * rate)
    return np.hstack([none, weights])


def epsilon_of(divergences: Divergences, delta: float) -> float:
    """Return the least epsilon that the bounds prove at this delta."""
    found = divergences + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    # Total variation is at most sqrt(1 - e^-KL) (Bretagnolle, Huber 1979), and the divergences are no less than KL.
    found[delta**2 + np.expm1(-divergences) > 0] = 0.0
    return max(0.0, float(found.min()))


def least_epsilon(delta: float) -> float:
    """Return the limit of `epsilon_of` for more and more noise, but for what is nearly no information at all."""
    return max(0.0, float((np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)).min()))
