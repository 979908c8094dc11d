"""The server sees only noise until the sum.

The statistics have fixed seeds, so that they repeat. Each comes with a proof of its power: a protocol without one kind
of mask, in which the same statistic is far off.
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest

from secagg import Completed
from secagg._client import states
from secagg.masking import accumulate
from secagg.messages import AdvertiseKeys, MaskedInput, PeerKeys, PeerShares, ShareKeys, UnmaskingShares
from tests import reference
from tests.secagg.machines import Script
from tests.support.sessions import Cohort, make_params

NUM_SAMPLES = 40_000

LIMIT = 5.0
"""Standard deviations that a true hypothesis may be off; chance alone exceeds this once in a million tests."""

BROKEN = 100.0
"""Minimum standard deviations by which a protocol without its masks must be off."""


def deviation(statistic: float, degrees: int) -> float:
    """Return a chi-square statistic as standard deviations from its mean."""
    return (statistic - degrees) / (2 * degrees) ** 0.5


def deviation_from_uniform(counts: np.ndarray) -> float:
    """Return Pearson's test of counts in cells that should be equally full."""
    expected = counts.sum() / counts.size
    return deviation(float(((counts - expected) ** 2 / expected).sum()), counts.size - 1)


def deviation_between(one: np.ndarray, other: np.ndarray) -> float:
    """Return the test of two samples of equal size, counted in the same cells: are they of one distribution?"""
    both = one + other
    used = both > 0
    return deviation(float(((one - other)[used] ** 2 / both[used]).sum()), max(1, int(used.sum()) - 1))


@dataclass
class Watched(Cohort):
    """A session whose server keeps all that it sees: masked inputs, also that of the client ``late``, and the job."""

    late: int | None = None
    views: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()

        def watch(client_id, message):
            if isinstance(message, MaskedInput):
                self.views[client_id] = message.masked_input.astype(np.uint64)
                return None if client_id == self.late else message
            return message

        self.uplink = watch


def watch(values, ring_bits: int, late=None) -> Watched:
    """Run a session of clients whose inputs have one value in every element: as far from noise as possible."""
    params = make_params(len(values), 2, NUM_SAMPLES, value_bits=ring_bits, ring_bits=ring_bits, modular=True)
    inputs = {i: np.full(NUM_SAMPLES, value, dtype=np.uint64) for i, value in enumerate(values)}
    cohort = Watched(params, inputs, late=late, entropy_seed=f"privacy {values}")
    assert isinstance(cohort.run().end, Completed)
    return cohort


def keep_masks(monkeypatch, chosen: slice) -> None:
    """Make clients apply only some of their masks. The first is the self mask, the others are pairwise."""
    monkeypatch.setattr(states, "accumulate", lambda vector, masks: accumulate(vector, list(masks)[chosen]))


@pytest.fixture
def without_masks(monkeypatch):
    keep_masks(monkeypatch, slice(0))


@pytest.fixture
def without_self_masks(monkeypatch):
    keep_masks(monkeypatch, slice(1, None))


@pytest.fixture
def without_pairwise_masks(monkeypatch):
    keep_masks(monkeypatch, slice(1))


# --- Each masked input, and all of them together ---------------------------------------------------------------------

RINGS = (1, 2, 5, 8, 9, 16, 24, 33, 64)


def deviation_of_elements(vector: np.ndarray, ring_bits: int) -> float:
    """Return the larger deviation from uniform of the elements' highest and lowest bits, up to six of each."""
    bits = min(ring_bits, 6)
    reduced = vector & np.uint64((1 << ring_bits) - 1)
    parts = (reduced >> np.uint64(ring_bits - bits), reduced & np.uint64((1 << bits) - 1))
    return max(deviation_from_uniform(np.bincount(part.astype(np.int64), minlength=1 << bits)) for part in parts)


def deviations_of_masked_inputs(ring_bits: int) -> list[float]:
    """Return the deviations of each masked input, of each pair's sum and difference, and of the sum of all (last)."""
    views = watch([1, 0, 1, 1], ring_bits).views
    combined = list(views.values())
    for one, other in combinations(views.values(), 2):
        combined += [one + other, one - other]
    combined.append(sum(views.values()))
    return [deviation_of_elements(vector, ring_bits) for vector in combined]


@pytest.mark.parametrize("ring_bits", RINGS)
def test_masked_inputs_are_uniform_alone_and_together(ring_bits):
    """Without the shares, all that the server can add or subtract is noise."""
    assert max(deviations_of_masked_inputs(ring_bits)) < LIMIT


@pytest.mark.parametrize("ring_bits", RINGS)
@pytest.mark.usefixtures("without_masks")
def test_the_statistic_sees_that_masks_are_missing(ring_bits):
    assert min(deviations_of_masked_inputs(ring_bits)) > BROKEN


@pytest.mark.parametrize("ring_bits", RINGS)
@pytest.mark.usefixtures("without_self_masks")
def test_the_statistic_sees_that_self_masks_are_missing(ring_bits):
    """Then the masked inputs add up to the sum before any client agrees to unmask it; no other statistic shows it."""
    *others, of_all = deviations_of_masked_inputs(ring_bits)
    assert of_all > BROKEN
    assert max(others) < LIMIT


# --- The same sum, the same view -------------------------------------------------------------------------------------

RING = 3
LATE = 3
"""A client whose masked input comes after the others have given its mask key away."""


def without_known_masks(cohort: Watched) -> dict[int, np.ndarray]:
    """Return each masked input, less every mask whose key the server has or recomputes from the shares.

    These are the survivors' self masks, and the pairwise masks of the late client, in its own vector too.  The pairwise
    masks among survivors remain, and the self mask of the late client.
    """
    params, job = cohort.params, cohort.job
    views = {client_id: vector.copy() for client_id, vector in cohort.views.items()}

    def take_off(client_id, key, sign):
        mask = np.array(reference.expand_mask(key, params.vector_length, params.ring_bits), dtype=np.uint64)
        views[client_id] -= mask if sign > 0 else -mask

    for client_id, seed in job.self_mask_seeds:
        take_off(client_id, reference.self_mask_key(seed, job.session_id, client_id), 1)
    assert job.recovered == (), "each survivor answered, so each handed over its key of the mask"
    for peer_id, answer in cohort.sent[UnmaskingShares].items():
        if answer.pairwise_keys:
            # The late client has the largest id.
            take_off(peer_id, answer.pairwise_keys, 1)
            take_off(cohort.late, answer.pairwise_keys, -1)
    return {client_id: vector % np.uint64(params.modulus) for client_id, vector in views.items()}


def joint_view(inputs, late=None) -> np.ndarray:
    """Return how often each pair of values stands in the vectors of the first two of three survivors.

    The third vector follows from these two and the sum, so the pairs are the whole view.
    """
    known = without_known_masks(watch([*inputs, 5] if late else inputs, RING, late))
    assert np.all((known[0] + known[1] + known[2]) % 8 == sum(inputs) % 8)
    return np.bincount((8 * known[0] + known[1]).astype(np.int64), minlength=64)


SAME_SUM = [[7, 0, 0], [0, 3, 4], [1, 1, 5]]


@pytest.mark.parametrize("late", [None, LATE])
def test_inputs_with_the_same_sum_give_the_server_the_same_view(late):
    """Three sets of inputs have the sum 7; the server removes all masks that it can, and counts what is left.

    Given the sum, the joint distribution must be uniform for all inputs, and must not tell two sets apart: the server
    learns the sum, and nothing else.
    """
    histograms = [joint_view(inputs, late) for inputs in SAME_SUM]
    assert max(map(deviation_from_uniform, histograms)) < LIMIT
    assert max(deviation_between(one, other) for one, other in combinations(histograms, 2)) < LIMIT


@pytest.mark.usefixtures("without_pairwise_masks")
def test_the_views_differ_if_pairwise_masks_are_missing():
    """When the self masks are removed, every input lies open."""
    histograms = [joint_view(inputs) for inputs in SAME_SUM]
    assert min(map(deviation_from_uniform, histograms)) > BROKEN
    assert min(deviation_between(one, other) for one, other in combinations(histograms, 2)) > BROKEN


def test_an_input_that_comes_too_late_stays_hidden():
    """The reason for double masks: the server knows all pairwise masks of a client believed gone (paper, 4.2)."""
    left = without_known_masks(watch([7, 0, 0, 5], RING, LATE))[LATE]
    assert deviation_of_elements(left, RING) < LIMIT


@pytest.mark.usefixtures("without_self_masks")
def test_an_input_that_comes_too_late_lies_open_if_self_masks_are_missing():
    left = without_known_masks(watch([7, 0, 0, 5], RING, LATE))[LATE]
    assert np.all(left == 5)


# --- Messages that do not depend on the inputs ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdvertiseKeys, PeerKeys, ShareKeys, PeerShares, UnmaskingShares])
def test_only_masked_inputs_depend_on_the_inputs(kind):
    """With the same randomness, two sets of inputs give bit for bit the same messages in every other round."""
    params = make_params(4, 2, vector_length=10)
    scripts = [
        Script(params, {i: np.full(10, value) for i in range(4)}, {}, seed="same randomness") for value in (0, 255)
    ]
    first, second = ({**script.client_messages, **script.server_messages} for script in scripts)
    assert first[kind] == second[kind]
    assert first[MaskedInput] != second[MaskedInput]
