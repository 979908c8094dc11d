"""Exact noise: each client's noise in components, of which the server takes off those that the sum does not need.

Noise for the fewest survivors of a session, t of n, is too much if more stay.  So with A corrupt clients, and the whole
noise v of a client, so that mu = v (t - A) is what a sum needs, a client draws

    a base of variance           v (t - A) / (n - A)        from entropy of its own, and
    component j = 1, .., B of    (v - base) 2^(j-1) / (2^B - 1)        from the session's key for it.

For s survivors the session keeps the components whose weights 2^(j-1) are the digits of
k = ceil((2^B - 1) (n - s)(t - A) / ((n - t)(s - A))), and gives the server the keys of the others
(`secagg.noise.removed_components`).  Each survivor then has base + (v - base) k / (2^B - 1) >= mu / (s - A), so that
the s - A honest ones have mu at least, and less than mu + s (v - base) / (2^B - 1).  As a sum of independent Skellam
variables, what is left is Skellam.

The idea of components that are taken off again is that of XNoise (Jiang et al., "Dordis", EuroSys 2024), which has one
for each number of dropouts.  Digits need as many as the logarithm of the precision.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fl.errors import ConfigError
from fl.privacy import samplers
from fl.privacy.mechanism import Mechanism, Noise
from secagg import ClientId, Parameters
from secagg.algebra import ring
from secagg.noise import removed_components
from secagg.params import MAX_NOISE_COMPONENTS

# The most noise that a sum may have beyond what it needs, relative to that.
MOST_EXCESS = 0.01


@dataclass(frozen=True, slots=True)
class ExactNoise:
    """The noise of a session with components.

    Attributes:
        mechanism: with the variance of one client's whole noise (v).
        params: with ``noise_components`` and ``corrupt_clients``.

    Raises:
        ConfigError: there are no components, or the noise is not Skellam.
    """

    mechanism: Mechanism
    params: Parameters

    def __post_init__(self) -> None:
        if not self.params.noise_components:
            raise ConfigError("the session has no noise components, so its noise is not exact")
        if self.mechanism.noise is not Noise.SKELLAM:
            raise ConfigError(
                f"{self.mechanism.noise.value} noise cannot be taken off exactly: what is left has another "
                "distribution; take Skellam noise"
            )

    @property
    def base_variance(self) -> float:
        """Return the variance that each client keeps, in steps squared."""
        return base_variance(self.mechanism, self.params)

    def component_variance(self, component: int) -> float:
        """Return the variance of a component, in steps squared."""
        whole = self.mechanism.variance - self.base_variance
        return whole * 2.0 ** (component - 1) / (2.0**self.params.noise_components - 1)

    def kept_variance(self, num_survivors: int) -> float:
        """Return the variance of a survivor's noise that stays in the sum, in steps squared."""
        removed = removed_components(self.params, num_survivors)
        return self.mechanism.variance - math.fsum(map(self.component_variance, removed))

    def left(self, num_survivors: int) -> Mechanism:
        """Return the mechanism of what stays in a sum of this many clients."""
        return replace(self.mechanism, variance=self.kept_variance(num_survivors))

    def excess(self, num_survivors: int) -> float:
        """Return by how much the honest survivors' noise exceeds what the sum needs, relative to that."""
        params = self.params
        honest, least = (count - params.corrupt_clients for count in (num_survivors, params.threshold))
        return self.kept_variance(num_survivors) * honest / (self.mechanism.variance * least) - 1

    def add(self, integers: npt.NDArray[np.int64], keys: tuple[bytes, ...], base_key: bytes) -> npt.NDArray[np.int64]:
        """Return the integers with a client's noise.

        Args:
            integers: shape (dimension,).
            keys: of the components, from `secagg.Client.noise_keys`.
            base_key: 16 bytes that only the client knows.
        """
        noised = integers.copy()
        samplers.add_skellam(noised, base_key, self.base_variance)
        for component, key in enumerate(keys, 1):
            samplers.add_skellam(noised, key, self.component_variance(component))
        return noised

    def take_off(self, total: ring.RingVector, noise_keys: Mapping[int, Mapping[ClientId, bytes]]) -> ring.RingVector:
        """Return a sum without the noise that it does not need.

        Args:
            total: the sum in the ring, shape (dimension,).
            noise_keys: from `secagg.Completed`. Noise of clients whose key is missing stays.
        """
        excess = np.zeros(len(total), dtype=np.int64)
        for component, keys in noise_keys.items():
            variance = self.component_variance(component)
            for key in keys.values():
                samplers.add_skellam(excess, key, variance)
        rest: ring.RingVector = total - excess.astype(total.dtype)
        ring.reduce_in_place(rest, self.mechanism.ring_bits)
        return rest


def base_variance(mechanism: Mechanism, params: Parameters) -> float:
    """Return the variance of the noise that a client keeps in sessions with components, in steps squared."""
    honest, all_honest = (count - params.corrupt_clients for count in (params.threshold, params.num_clients))
    return mechanism.variance * honest / all_honest


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UpdateAwaitingNoise:
    """A client's rounded update, to which noise is added where its machine is: `transport.KeyedInput`.

    It may be sent to another process of the same client, and nowhere else.
    """

    noise: ExactNoise
    integers: npt.NDArray[np.int64]
    base_key: bytes

    def __call__(self, keys: tuple[bytes, ...]) -> ring.RingVector:
        """Return the input of the session, shape (dimension,)."""
        return self.noise.mechanism.in_ring(self.noise.add(self.integers, keys, self.base_key))


def with_components(params: Parameters, corrupt_clients: int) -> Parameters:
    """Return the parameters with as many noise components as they need, if any."""
    components = needed_components(params, corrupt_clients)
    return replace(params, noise_components=components, corrupt_clients=corrupt_clients if components else 0)


def exact_noise(mechanism: Mechanism, params: Parameters) -> ExactNoise | None:
    """Return the exact noise of a session; None if it has no components."""
    return ExactNoise(mechanism, params) if params.noise_components else None


def needed_components(params: Parameters, corrupt_clients: int) -> int:
    """Return the fewest noise components with which no sum has more than `MOST_EXCESS`; 0 if no dropouts are planned.

    A step of k is s (v - base) / (2^B - 1) in a sum of s, at most (v - base) / (base (2^B - 1)) of what it needs.
    """
    if params.threshold >= params.num_clients:
        return 0
    whole = (params.num_clients - corrupt_clients) / (params.threshold - corrupt_clients) - 1
    for components in range(1, MAX_NOISE_COMPONENTS):
        if whole / (2**components - 1) <= MOST_EXCESS:
            return components
    return MAX_NOISE_COMPONENTS
