"""Replies of private sessions: the change of the float arrays that were sent, clipped, with noise.

Every client counts once: weights, metrics and arrays that were not sent do not travel.  So the structure of an input
depends on what was sent alone, and a client without a reply sends noise that looks like any other input.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.aggregation.counters import IntegerVector
from fl.aggregation.encoding import QuantizationError
from fl.errors import ConfigError
from fl.integrations.record_layout import ArrayField, Arrays, RecordLayout, RecordLayoutError, float_sizes, is_float
from fl.integrations.records import Average
from fl.privacy.mechanism import Mechanism, rotation_seed
from fl.privacy.terms import PrivateTerms
from secagg import EntropySource, Parameters
from secagg.algebra import ring

_METRICS = "metrics"

Change = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PrivateRecords:
    """The encoding of changes in one private session; the same on the server and all clients.

    Attributes:
        mechanism: what each client does to its change.
        context: the bytes that the session is bound to, from which the rotation is drawn.
    """

    mechanism: Mechanism
    context: bytes

    def check_sent(self, sent: Arrays) -> None:
        """Raise RecordLayoutError unless the session is for replies to these arrays."""
        if (size := sum(float_sizes(sent).values())) != self.mechanism.length:
            raise RecordLayoutError(
                f"the private session is for {self.mechanism.length} elements in float arrays, but {size} were sent"
            )

    def change(self, reply: Arrays, sent: Arrays) -> Change:
        """Return a reply's change of the float arrays that were sent, by record and name; the others stay.

        Raises:
            RecordLayoutError: an array has another shape than the one that was sent.
        """
        flat = np.zeros(self.mechanism.length, dtype=np.float32)
        at = 0
        for (record, name), size in float_sizes(sent).items():
            own = reply.get(record, {}).get(name)
            if own is not None:
                before = sent[record][name]
                if own.shape != before.shape or own.dtype.kind not in "fiub":
                    raise RecordLayoutError(
                        f"array {name!r} of record {record!r} has shape {own.shape} and type {own.dtype}, but "
                        f"{before.shape} and {before.dtype} were sent"
                    )
                # Values too large for float32 become infinite, and encoding refuses them.
                with np.errstate(over="ignore", invalid="ignore"):
                    flat[at : at + size] = np.ravel(own.astype(np.float64) - before)
            at += size
        return flat

    def encode(self, change: Change | None, rng: np.random.Generator, entropy: EntropySource) -> IntegerVector:
        """Return a change with noise; None for a client without one: its vector is noise around 0.

        Args:
            change: as `change` returned it.
            rng: generator for the rounding, which need not be secret.
            entropy: source of the noise's key, the client's own.

        Raises:
            QuantizationError: the change is not finite.
        """
        update = np.zeros(self.mechanism.length, dtype=np.float32) if change is None else change
        # Servers may plan figures; replies have none, so they count as the middle of their range.
        figures = np.zeros(self.mechanism.figures)
        try:
            return self.mechanism.encode(
                update, rotation=rotation_seed(self.context), rng=rng, entropy=entropy, figures=figures
            )
        except ValueError as error:
            raise QuantizationError(f"{error}: lower the learning rate") from None

    def mean(self, total: ring.RingVector, included: int) -> Change:
        """Return the mean change of this many clients, with its noise, from their sum in the ring."""
        update, _ = self.mechanism.decode(total, rotation=rotation_seed(self.context))
        return (update / included).astype(np.float32)


def changed(sent: Arrays, mean: Change) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Return the arrays that were sent plus a mean change; arrays of integers stay."""
    arrays = {record: dict(named) for record, named in sent.items()}
    at = 0
    for (record, name), size in float_sizes(sent).items():
        own = sent[record][name]
        arrays[record][name] = np.asarray(own + mean[at : at + size].reshape(own.shape)).astype(own.dtype)
        at += size
    return arrays


def check_terms(terms: PrivateTerms | None, params: Parameters) -> None:
    """Raise ConfigError unless a session has noise exactly if its sums wrap around, and its numbers fit each other."""
    if params.noise_components:
        raise ConfigError("the session's noise is in components that the server takes off: frameworks do not know it")
    if terms is None and params.modular:
        raise ConfigError("the session's sums wrap around on purpose, but it has no noise")
    if terms is not None and (problems := terms.contradictions(params)):
        raise ConfigError("; ".join(problems))


def private_layout(sent: Arrays) -> RecordLayout:
    """Return the layout of all inputs of a private session: it depends on what was sent alone."""
    fields = tuple(
        ArrayField(record, name, array.dtype.name, array.shape, is_float(array.dtype.name))
        for record, named in sent.items()
        for name, array in named.items()
    )
    return RecordLayout(fields, (), _METRICS)


def private_average(
    records: PrivateRecords, total: ring.RingVector, included: int, sent: Arrays, weight: str
) -> Average:
    """Return the noisy average as strategies take it: every client weighs 1."""
    return Average(
        arrays=changed(sent, records.mean(total, included)),
        metrics={_METRICS: {weight: included}},
        total_weight=included,
        clipped=0.0,
        kept=tuple(
            (record, name) for record, named in sent.items() for name, array in named.items()
            if not is_float(array.dtype.name)
        ),
    )  # fmt: skip
