"""Statistics over twenty hospitals that keep their own secret: a histogram for each diagnosis, counts, and a mean.

The records are real: scikit-learn's copy of the Wisconsin breast cancer data, divided among the hospitals. Each
hospital sends one vector of whole numbers: counts add up, and so do sums in whole units. Needs the extra `fl`, for
scikit-learn.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer

import secagg
from transport import FaultSchedule, run_session

NUM_HOSPITALS = 20
MAX_RECORDS = 200  # the most of one hospital, by agreement
EDGES = np.arange(5.0, 31.0, 2.5)  # millimetres; agreed on before the data are known
OUTSIDE = [-np.inf, *EDGES[1:-1], np.inf]  # smaller and larger values go into the outermost bins
UNIT = 0.01  # millimetres: the unit of sums
DIAGNOSES = ("malignant", "benign")
NUM_BINS = len(EDGES) - 1


def statistics(radius: np.ndarray, diagnosis: np.ndarray) -> np.ndarray:
    """Return one hospital's vector: for each diagnosis the counts of each bin, and the sum of all radii in units."""
    radius, diagnosis = radius[:MAX_RECORDS], diagnosis[:MAX_RECORDS]
    counts = [np.histogram(radius[diagnosis == code], OUTSIDE)[0] for code in range(len(DIAGNOSES))]
    total = np.rint(np.clip(radius, 0, EDGES[-1]) / UNIT).sum()
    return np.concatenate([*counts, [total]]).astype(np.int64)


def table(vector: np.ndarray) -> str:
    """Return the statistics of all hospitals as text."""
    counts = vector[:-1].reshape(len(DIAGNOSES), NUM_BINS).astype(int)
    lines = ["millimetres   " + "".join(f"{name:>10}" for name in DIAGNOSES)]
    for low, high, column in zip(EDGES[:-1], EDGES[1:], counts.T, strict=True):
        lines.append(f"{low:4.1f} to {high:4.1f}  " + "".join(f"{count:10d}" for count in column))
    lines.append("all           " + "".join(f"{count:10d}" for count in counts.sum(axis=1)))
    return "\n".join([*lines, f"mean radius {vector[-1] * UNIT / counts.sum():.2f} mm"])


records = load_breast_cancer()
dealt = np.random.default_rng(0).integers(NUM_HOSPITALS, size=len(records.target))
inputs = {
    hospital: statistics(records.data[dealt == hospital, 0], records.target[dealt == hospital])
    for hospital in range(NUM_HOSPITALS)
}
params = secagg.plan(
    num_clients=NUM_HOSPITALS,
    vector_length=len(DIAGNOSES) * NUM_BINS + 1,
    max_value=round(MAX_RECORDS * EDGES[-1] / UNIT),  # the largest possible element of one hospital
    dropout=0.15,
    corrupt=0.1,
).parameters
report = run_session(params, inputs, faults=FaultSchedule.dropouts(inputs, 0.15, seed=0))
if not isinstance(report.outcome, secagg.Completed):
    raise SystemExit(str(report.outcome))
included = len(report.outcome.included)
print(f"{included} of {NUM_HOSPITALS} hospitals, {report.bytes_up / NUM_HOSPITALS:.0f} bytes from each")
print(table(report.outcome.sum))
