"""Float updates and counters as vectors of small non-negative integers, and back: what makes them summable in a ring.

An element x of an update, clipped to [-c, c], with the client's weight w = examples / max_examples in (0, 1], becomes

    q = floor(w (x + c) / step + u),   step = 2c / (2^value_bits - 1),   u uniform in [0, 1)

so that q is in [0, 2^value_bits) and unbiased: E[q] = w (x + c) / step.  The weighted mean follows from sums alone,
sum(w x) / sum(w) = step sum(q) / sum(w) - c.  Weighting before rounding keeps the ring small: the width of a sum
does not grow with the largest weight.

Counters (examples, correct predictions, loss, clipped elements) travel behind the update as digits in base
2^value_bits, which add up like everything else; so the server learns only totals, the weights included.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fl.counters import LOSS_STEPS, MAX_LOSS, CounterEncoding, IntegerVector, loss_steps
from fl.errors import ConfigError, FLError

Vector: TypeAlias = npt.NDArray[np.float32]

MIN_VALUE_BITS, MAX_VALUE_BITS = 4, 32
MIN_CLIP, MAX_CLIP = 1e-20, 1e20


class QuantizationError(FLError):
    """An update that cannot be encoded: not finite, of another length, or of more examples than planned for."""


class UndecodableSumError(FLError):
    """A sum that inputs of the agreed form cannot add up to: a client sent something else, and there is no result."""


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What a client would send in the clear.

    Attributes:
        delta: its model less the server's, float32, shape (update_length,).
        num_examples: how many examples it trained on: its weight.
        loss_sum: the sum of its examples' training losses, in nats.
        correct: how many of them its model predicted rightly.
    """

    delta: Vector
    num_examples: int
    loss_sum: float
    correct: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What the server learns of a round.

    Attributes:
        mean_delta: the mean update, weighted by examples, float32, shape (update_length,).
        num_examples: the examples of all clients together.
        loss: the mean training loss an example, in nats.
        accuracy: the fraction of examples predicted rightly.
        clipped: the fraction of all update elements that were clipped; nan where nothing clips.
    """

    mean_delta: Vector
    num_examples: int
    loss: float
    accuracy: float
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateEncoding:
    """How updates become integers; the same on the server and all clients.

    Attributes:
        update_length: elements of an update.
        max_examples: a public bound on any client's examples; the weights are relative to it.
        clip: elements are clipped to [-clip, clip], in the model's units.
        value_bits: bits of an encoded element.

    Raises:
        ConfigError: a number out of range.
    """

    update_length: int
    max_examples: int
    clip: float
    value_bits: int

    def __post_init__(self) -> None:
        if not MIN_VALUE_BITS <= self.value_bits <= MAX_VALUE_BITS:
            raise ConfigError(
                f"value bits must be between {MIN_VALUE_BITS} and {MAX_VALUE_BITS}, not {self.value_bits}"
            )
        if not MIN_CLIP <= self.clip <= MAX_CLIP:
            raise ConfigError(f"the clipping bound must be between {MIN_CLIP:g} and {MAX_CLIP:g}, not {self.clip}")
        if self.update_length < 1 or self.max_examples < 1:
            raise ConfigError("an encoding needs at least one element and one example")

    @property
    def vector_length(self) -> int:
        """Elements of an encoded update: the update's, and the counters' digits."""
        return self.update_length + self._counters.vector_length

    @property
    def _step(self) -> float:
        return 2 * self.clip / ((1 << self.value_bits) - 1)

    @property
    def _counters(self) -> CounterEncoding:
        """Of examples, correct ones, loss steps and clipped elements."""
        largest = (self.max_examples, self.max_examples, self.max_examples * MAX_LOSS * LOSS_STEPS, self.update_length)
        return CounterEncoding(largest, self.value_bits)

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> IntegerVector:
        """The encoded update, int64, shape (vector_length,), elements in [0, 2^value_bits).

        Args:
            update: what to encode.
            rng: draws the rounding. It protects nothing: the protocol's masks do.

        Raises:
            QuantizationError: see there.
        """
        delta = update.delta
        if delta.shape != (self.update_length,):
            raise QuantizationError(f"an update of shape {delta.shape}, but ({self.update_length},) was planned")
        if not np.isfinite(delta).all() or not np.isfinite(update.loss_sum):
            raise QuantizationError("an update with elements or a loss that are not finite: lower the learning rate")
        if not 0 <= update.num_examples <= self.max_examples:
            raise QuantizationError(f"{update.num_examples} examples, but 0 to {self.max_examples} were planned")
        if not 0 <= update.correct <= update.num_examples:
            raise QuantizationError(f"{update.correct} correct predictions of {update.num_examples} examples")
        # In float64 from the start: in float32 the bound itself would be rounded, and with it the range left.
        scaled = delta.astype(np.float64)
        num_clipped = int(np.count_nonzero(np.abs(scaled) > self.clip))
        np.clip(scaled, -self.clip, self.clip, out=scaled)
        scaled += self.clip
        scaled *= update.num_examples / self.max_examples / self._step
        scaled += rng.random(len(scaled))
        encoded = np.empty(self.vector_length, dtype=np.int64)
        # The largest element plus its rounding can come out one ulp too high.
        np.minimum(np.floor(scaled, out=scaled), (1 << self.value_bits) - 1, out=scaled)
        encoded[: self.update_length] = scaled
        loss = loss_steps(update.loss_sum, update.num_examples)
        encoded[self.update_length :] = self._counters.encode((update.num_examples, update.correct, loss, num_clipped))
        return encoded

    def decode(self, total: IntegerVector, num_clients: int) -> Aggregate:
        """The aggregate in a sum of ``num_clients`` encoded updates, shape (vector_length,).

        Raises:
            UndecodableSumError: no ``num_clients`` updates add up to it.
        """
        num_examples, correct, loss, num_clipped = checked_totals(total, num_clients, self._counters, fewest_examples=1)
        elements = total[: self.update_length]
        # Each client's are at most its weight times the largest value, and one more by rounding.
        most = num_examples / self.max_examples * ((1 << self.value_bits) - 1) + num_clients
        if int(elements.max()) > most:
            raise UndecodableSumError(
                f"{num_clients} clients' inputs, of {num_examples} examples, cannot add up to an element of "
                f"{int(elements.max())}: a client sent what is no input"
            )
        mean = elements.astype(np.float64)
        mean *= self._step * self.max_examples / num_examples
        mean -= self.clip
        return Aggregate(
            mean_delta=mean.astype(np.float32),
            num_examples=num_examples,
            loss=loss / LOSS_STEPS / num_examples,
            accuracy=correct / num_examples,
            clipped=num_clipped / (self.update_length * num_clients),
        )


def checked_totals(
    total: IntegerVector, num_clients: int, counters: CounterEncoding, *, fewest_examples: int
) -> tuple[int, ...]:
    """The sums of the counters at the end of a sum of vectors.

    Args:
        total: the sum, shape (at least ``counters.vector_length``,).
        num_clients: how many vectors are in it.
        counters: of examples, correct predictions, loss steps, and any others.
        fewest_examples: the fewest that all clients together can have.

    Raises:
        UndecodableSumError: no ``num_clients`` vectors add up to it.
    """
    sums = counters.decode(total[-counters.vector_length :])
    examples, correct, loss = sums[:3]
    wrong = ""
    if int(total.max()) > num_clients * ((1 << counters.value_bits) - 1):
        wrong = f"an element of {int(total.max())}"
    elif not fewest_examples <= examples <= num_clients * counters.largest[0]:
        wrong = f"{examples} examples"
    elif correct > examples:
        wrong = f"{correct} correct predictions of {examples} examples"
    elif loss > examples * MAX_LOSS * LOSS_STEPS:
        wrong = f"a loss of {loss / LOSS_STEPS:g} over {examples} examples"
    elif any(found > num_clients * largest for found, largest in zip(sums, counters.largest, strict=True)):
        wrong = f"{max(sums[3:])} clipped elements"
    if wrong:
        raise UndecodableSumError(
            f"{num_clients} clients' inputs cannot add up to {wrong}: a client sent what is no input"
            + ("" if examples else ", or none of them has any")
        )
    return sums
