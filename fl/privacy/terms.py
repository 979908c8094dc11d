"""The terms of a private session: the numbers that its server announces, as a client checks and counts them.

A client believes nothing here that it cannot see to itself.  It adds the noise of `mechanism`, so that much is certain;
how many others add theirs it takes from the session's threshold and its own assumption about corrupt clients
(`fl.privacy.policy`).  What the server planned for is told only so that a contradiction shows: `honest`, `corrupt`, and
`sampling_rate`, which gains nothing against a server that knows who takes part.

As a map for msgpack the terms are strict: a client that does not know one of the names must not take part, since it
could not count what the name stands for.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from fl.errors import ConfigError
from fl.privacy.accounting import Release
from fl.privacy.mechanism import Mechanism, Noise
from fl.privacy.search import needed_bits
from secagg import Parameters
from secagg.params import MAX_CLIENTS

# Far beyond what any plan needs; within them, no square or quotient in the accounting overflows or vanishes.
_RANGES: dict[str, tuple[float, float]] = {
    "length": (1, 2**40),
    "clip": (1e-30, 1e30),
    "granularity": (1e-30, 1e30),
    "variance": (2.0**-64, 2.0**32),
    "figures": (0, 1000),
    "figure_weight": (0, 1e6),
    "honest": (1, MAX_CLIENTS),
    "corrupt": (0, MAX_CLIENTS),
    "sampling_rate": (2.0**-64, 1.0),
}
_MOST_RANGES = 32
_RANGE = (str, float, float)

# A narrower ring wraps around so often that the round's privacy would be spent on nothing.
_FEWEST_DEVIATIONS = 2.0

_OUTER: dict[str, type] = {"honest": int, "corrupt": int, "sampling_rate": float}
_MECHANISM: dict[str, type] = {**get_type_hints(Mechanism), "noise": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateTerms:
    """The numbers of one private session.

    Attributes:
        mechanism: what each client does to its update.
        honest: the fewest honest clients in a sum that the noise was planned for.
        corrupt: the corrupt clients that were assumed among the fewest clients in a sum.
        sampling_rate: the probability with which each client was drawn for the session.
        figure_ranges: name, low and high of each figure that has another range than the usual one.

    Raises:
        ConfigError: a number is out of range.
    """

    mechanism: Mechanism
    honest: int
    corrupt: int
    sampling_rate: float = 1.0
    figure_ranges: tuple[tuple[str, float, float], ...] = ()

    def __post_init__(self) -> None:
        _check_ranges(self._numbers())
        for name, low, high in self.figure_ranges:
            if not (math.isfinite(high - low) and low < high):
                raise ConfigError(f"the range of {name} must rise from low to high, both finite, not {low} to {high}")

    def _numbers(self) -> dict[str, Any]:
        own = {one.name: getattr(self.mechanism, one.name) for one in fields(Mechanism)}
        return own | {name: getattr(self, name) for name in _OUTER}

    def release(self, honest: int, variance: float | None = None) -> Release:
        """Return what a sum gives away to those who know that a client takes part: there is no gain by sampling.

        Args:
            honest: the fewest clients in the sum whose noise the adversary does not know.
            variance: of one client's noise that the adversary does not know, in steps squared; by default the whole.
        """
        own = self.mechanism
        return Release(
            squared_l2=own.squared_l2,
            l1=own.l1,
            dimension=own.dimension,
            noise=own.noise,
            variance=own.variance if variance is None else variance,
            honest=honest,
        )

    def contradictions(self, params: Parameters) -> list[str]:
        """Return what in the terms does not fit the parameters of their session."""
        own, found = self.mechanism, []
        if not params.is_complete:
            found.append(
                "a private sum on a sparse graph, where no client can check how many clients are in it: this client "
                "needs the complete graph"
            )
        if not params.modular or {params.ring_bits, params.value_bits} != {own.ring_bits}:
            found.append(
                f"noise in a ring of {own.ring_bits} bits, but the session sums {params.value_bits} bits in "
                f"{params.ring_bits}{'' if params.modular else ', without wrapping around'}"
            )
        if params.vector_length != own.dimension:
            found.append(f"private vectors of {own.dimension} elements, but the session's have {params.vector_length}")
        if self.honest + self.corrupt > params.threshold:
            found.append(
                f"noise planned for {self.honest} honest and {self.corrupt} corrupt clients, but a sum may have only "
                f"{params.threshold}"
            )
        if params.noise_components and own.noise is not Noise.SKELLAM:
            found.append(f"{own.noise.value} noise in components: only Skellam noise can be taken off exactly")
        if params.noise_components and params.corrupt_clients != self.corrupt:
            found.append(
                f"noise planned for {self.corrupt} corrupt clients, but what is taken off is for "
                f"{params.corrupt_clients}"
            )
        needed = needed_bits(
            clip=own.norm,
            clients=params.threshold,
            dimension=own.dimension,
            granularity=own.granularity,
            variance=own.variance,
            deviations=_FEWEST_DEVIATIONS,
        )
        if needed > own.ring_bits:
            found.append(
                f"a ring of {own.ring_bits} bits, but the sum of {params.threshold} clients needs {needed:.1f}: it "
                "would wrap around, and privacy be spent on nothing"
            )
        return found

    def to_map(self) -> dict[str, Any]:
        """Return plain values for msgpack; equal terms give equal maps."""
        numbers = {**self._numbers(), "noise": self.mechanism.noise.value}
        outer = {name: kind(numbers[name]) for name, kind in _OUTER.items()}
        return outer | {
            "mechanism": {name: kind(numbers[name]) for name, kind in _MECHANISM.items()},
            "figure_ranges": [[name, float(low), float(high)] for name, low, high in self.figure_ranges],
        }

    @classmethod
    def from_map(cls, values: Any) -> "PrivateTerms":
        """Return the terms that `to_map` wrote; ConfigError for other names, types or numbers out of range."""
        outer = _checked(values, {**_OUTER, "mechanism": dict, "figure_ranges": list})
        ranges = outer["figure_ranges"]
        if len(ranges) > _MOST_RANGES or not all(type(one) is list and _kinds(one) == _RANGE for one in ranges):
            raise ConfigError("the terms of privacy have ranges of figures that are no name with two numbers")
        own = _checked(outer["mechanism"], _MECHANISM)
        if own["noise"] not in {noise.value for noise in Noise}:
            raise ConfigError("the terms of privacy name an unknown noise")
        # Before the mechanism computes with them.
        _check_ranges({**outer, **own})
        mechanism = Mechanism(**{**own, "noise": Noise(own["noise"])})
        return cls(**{**outer, "mechanism": mechanism, "figure_ranges": tuple(map(tuple, ranges))})


def _kinds(values: list[Any]) -> tuple[type, ...]:
    return tuple(type(value) for value in values)


def _checked(values: Any, types: dict[str, type]) -> dict[str, Any]:
    if not isinstance(values, dict) or values.keys() != types.keys():
        raise ConfigError("the terms of privacy have other names than this version knows: upgrade it")
    for name, kind in types.items():
        # isinstance would accept True as an int.
        if type(values[name]) is not kind:
            raise ConfigError(f"{name} in the terms of privacy is of type {type(values[name]).__name__}")
        if kind is float and not math.isfinite(values[name]):
            raise ConfigError(f"the {name} in the terms of privacy is not finite")
    return values


def _check_ranges(numbers: dict[str, Any]) -> None:
    wrong = [
        f"{name} is {numbers[name]}, but must be between {least:g} and {most:g}"
        for name, (least, most) in _RANGES.items()
        if not least <= numbers[name] <= most
    ]
    if wrong:
        raise ConfigError("; ".join(wrong))
