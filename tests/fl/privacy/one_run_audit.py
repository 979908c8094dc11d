"""An audit in one run (Steinke, Nasr, Jagielski, NeurIPS 2023): the epsilon that right guesses refute.

Each of m canaries is included or not by a fair coin of its own.  From one output an attacker guesses the coins of r of
them; r does not depend on the coins.  Let the mechanism be (epsilon, delta)-differentially private for each canary, and
W the number of right guesses.

Let p be the probability that a guess is right, given the output and the coins of the canaries before it.  The output
has the densities P and Q with the two values of the guessed coin, and by Bayes' rule p = P/(P + Q) for a guess of the
first.  With q = e^epsilon / (1 + e^epsilon)

    (p - q) (P + Q) = (P - e^epsilon Q) / (1 + e^epsilon),

whose positive part has at most the integral delta / (1 + e^epsilon).  The output's density is (P + Q)/2, and a guess
has two values: so the mean of max(p - q, 0) is at most delta / (1 + e^epsilon).  Draw a uniform number for each guess,
and say that it is right below p.  Then W is at most B + F: B counts the numbers below q, so it is binomial with r tries
at q; F counts those between q and p, and has a mean of at most m delta / (1 + e^epsilon).  So for every k >= 0

    P[W >= v] <= P[B >= v - k] + P[F > k] <= P[B >= v - k] + m delta / ((1 + e^epsilon) (k + 1)).

An epsilon for which this is at most 5% for some k is refuted, at 95% confidence.  With delta = 0 that is the paper's
bound.  Its second term for delta > 0, 2 m delta max_i P[v > B >= v - i] / i, is not used: tests show a mechanism of two
canaries that exceeds it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

# Refuted epsilons are found to this accuracy, rounded down.
_STEP = 0.01
_LARGEST = 12.0
# A larger k does not help where the first term matters.
_MOST_K = 32

Floats = npt.NDArray[np.float64]


def probability_of(right: int, guesses: int, canaries: int, epsilon: Floats | float, delta: float) -> Floats:
    """Return the bound on the probability of at least ``right`` right guesses, for each epsilon."""
    epsilon = np.asarray(epsilon)[..., np.newaxis]
    k = np.arange(_MOST_K + 1)
    of_delta = canaries * delta / (1 + np.exp(epsilon)) / (k + 1)
    bound: Floats = (binom.sf(right - k - 1, guesses, 1 / (1 + np.exp(-epsilon))) + of_delta).min(axis=-1)
    return bound


def proven_epsilon(right: int, guesses: int, canaries: int, delta: float, confidence: float = 0.95) -> float:
    """Return the largest epsilon that this number of right guesses refutes; 0 if it refutes none."""
    # What is private with an epsilon is so with a larger one: the true one is above each that is refuted.
    epsilons = np.arange(0, _LARGEST, _STEP)
    refuted = epsilons[probability_of(right, guesses, canaries, epsilons, delta) <= 1 - confidence]
    return float(refuted.max(initial=0.0))


def right_guesses(scores: npt.NDArray[np.float64], coins: npt.NDArray[np.bool_], guesses: int) -> int:
    """Return how many guesses are right if the highest and the lowest scores, half of the guesses each, decide."""
    order = np.argsort(scores)
    half = guesses // 2
    return int(coins[order[-half:]].sum() + (~coins[order[:half]]).sum())
