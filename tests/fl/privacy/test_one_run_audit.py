"""An attack on sums from sessions stays below the claimed epsilon, and exceeds it if the noise is off or halved."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import lil_matrix

from fl.privacy.budget import Budget
from fl.privacy.mechanism import Mechanism, rotation_seed
from fl.privacy.planner import PrivacyPlan, plan_private
from secagg import Completed, Round
from tests.fl.privacy.one_run_audit import probability_of, proven_epsilon, right_guesses
from transport import Direction, Fault, FaultSchedule, run_session

CLIENTS, VANISH = 16, 4
# A session's inputs hold the vectors of this many audited releases, each with its own noise, one after the other.
RELEASES, SESSIONS = 64, 64
# The attacker guesses one canary in 40: those of which it is surest.
GUESSED = 40
EPSILON, DELTA = 2.0, 3e-5


def largest_probability(right: int, canaries: int, epsilon: float, delta: float) -> float:
    """The probability of so many right guesses by the best of all (epsilon, delta)-private mechanisms.

    A linear programme: a mechanism gives each string of coins a distribution over strings of guesses.
    """
    strings = list(itertools.product((0, 1), repeat=canaries))
    count = len(strings)
    pairs = [
        (a, b)
        for a, b in itertools.product(range(count), repeat=2)
        if sum(x != y for x, y in zip(strings[a], strings[b], strict=True)) == 1
    ]
    # Variables: P(guesses | coins), and for each pair of neighbours how far each probability exceeds e^epsilon times
    # the other's. The excesses of a pair add up to at most delta.
    variables = count * count + len(pairs) * count
    equal, above = lil_matrix((count, variables)), lil_matrix((len(pairs) * (count + 1), variables))
    for coins in range(count):
        equal[coins, coins * count : (coins + 1) * count] = 1
    limits = np.zeros(above.shape[0])
    for number, (a, b) in enumerate(pairs):
        first = count * count + number * count
        for guess in range(count):
            row = number * (count + 1) + guess
            above[row, a * count + guess] = 1
            above[row, b * count + guess] = -math.exp(epsilon)
            above[row, first + guess] = -1
        above[number * (count + 1) + count, first : first + count] = 1
        limits[number * (count + 1) + count] = delta
    gain = np.zeros(variables)
    for coins, guess in itertools.product(range(count), repeat=2):
        agree = sum(x == y for x, y in zip(strings[coins], strings[guess], strict=True))
        gain[coins * count + guess] = -(agree >= right) / count
    solved = linprog(gain, A_ub=above.tocsr(), b_ub=limits, A_eq=equal.tocsr(), b_eq=np.ones(count), method="highs")
    assert solved.success
    return -float(solved.fun)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("canaries", [1, 2, 3])
def test_no_mechanism_guesses_better_than_the_bound_says(canaries: int, epsilon: float) -> None:
    for right in range(1, canaries + 1):
        exact = largest_probability(right, canaries, epsilon, 0.0)
        # Without delta the best mechanism is randomised response, and the bound is its probability.
        assert probability_of(right, canaries, canaries, epsilon, 0.0) == pytest.approx(exact, abs=1e-7)
        for delta in (1e-3, 1e-2, 0.1):
            most = largest_probability(right, canaries, epsilon, delta)
            assert exact < most <= probability_of(right, canaries, canaries, epsilon, delta) + 1e-7


def test_the_published_term_of_delta_is_exceeded_by_a_mechanism_of_two_canaries() -> None:
    epsilon, delta, q = 1.0, 0.1, 1 / (1 + math.exp(-1.0))
    # With v = 1 the published term is 2 m delta P[B = 0].
    published = 1 - (1 - q) ** 2 + 4 * delta * (1 - q) ** 2
    most = largest_probability(1, 2, epsilon, delta)
    assert published + 0.005 < most <= probability_of(1, 2, 2, epsilon, delta)
    # The mechanism: it gives the wrong string with probability a, each neighbour of it with b and the right one with c.
    e = math.exp(epsilon)
    a = (1 - delta * (2 + e)) / (1 + e) ** 2
    b, c = e * a + delta, e * (e * a + delta)
    assert a + 2 * b + c == pytest.approx(1)
    # Neighbouring coins swap a with b, and b with c: what exceeds e^epsilon times the other is delta in all.
    assert max(0, b - e * a) + max(0, c - e * b) + max(0, a - e * b) + max(0, b - e * c) == pytest.approx(delta)
    assert most == pytest.approx(1 - a, abs=1e-6)


def test_randomised_response_is_never_said_to_have_more_than_its_epsilon_but_once_in_twenty_times() -> None:
    rng, epsilon = np.random.default_rng(5), 1.5
    found = [proven_epsilon(int(rng.binomial(400, 1 / (1 + math.exp(-epsilon)))), 400, 400, 0.0) for _ in range(100)]
    # Five on average; more than twelve once in a thousand times.
    assert sum(one > epsilon for one in found) <= 12
    assert np.median(found) > 0.75 * epsilon


# The deviation of the noise over the planned one, and the number of audited releases in a session's inputs.
VARIANTS = {"planned": (1.0, RELEASES), "halved": (0.5, RELEASES), "off": (1e-6, RELEASES // 16)}


def audited_plan() -> PrivacyPlan:
    budget = Budget(epsilon=EPSILON, delta=DELTA, rounds=1, clip=0.7, ring_bits=20)
    return plan_private(budget, num_clients=CLIENTS, length=CLIENTS, dropout=VANISH / CLIENTS)


def session_scores(
    plan: PrivacyPlan, mechanisms: list[Mechanism], number: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The scores and the coins of the canaries that stayed in one session, both of shape (releases, clients).

    Client i's canary is the clip times the unit vector i, or nothing: its share of the noise is in the sum in both
    cases. The score is the released sum's element i, in units of the clip.
    """
    context = f"audit {number}".encode()
    coins = rng.integers(0, 2, (len(mechanisms), CLIENTS)).astype(bool)
    rotations = [rotation_seed(context + bytes([release])) for release in range(len(mechanisms))]
    canaries = plan.mechanism.clip * np.eye(CLIENTS)
    inputs = {
        client: np.concatenate(
            [
                mechanism.encode(canaries[client] * coin[client], rotation=rotation, rng=rng, entropy=rng.bytes)
                for mechanism, coin, rotation in zip(mechanisms, coins, rotations, strict=True)
            ]
        )
        for client in range(CLIENTS)
    }
    gone = rng.permutation(CLIENTS)[:VANISH].tolist()
    when = rng.choice([Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION], VANISH).tolist()
    faults = {(client, round_, Direction.UP): Fault.VANISH for client, round_ in zip(gone, when, strict=True)}
    parameters = replace(plan.session.parameters, vector_length=len(inputs[0]))
    outcome = run_session(parameters, inputs, context=context, faults=FaultSchedule(faults), seed=number).outcome
    assert isinstance(outcome, Completed)
    # As few as the session allows, so that the sum has no noise beyond the plan's.
    assert len(outcome.included) == CLIENTS - VANISH == plan.release.honest
    parts = outcome.sum.reshape(len(mechanisms), -1)
    scores = np.stack(
        [
            mechanism.decode(part, rotation=rotation)[0] / mechanism.clip
            for mechanism, part, rotation in zip(mechanisms, parts, rotations, strict=True)
        ]
    )
    stayed = list(outcome.included)
    return scores[:, stayed], coins[:, stayed]


@dataclass(frozen=True)
class Finding:
    """What the attack has found in one way to add noise."""

    right: int
    guesses: int
    canaries: int

    @property
    def epsilon(self) -> float:
        """A lower bound at 95% confidence."""
        return proven_epsilon(self.right, self.guesses, self.canaries, DELTA)


def attack(plan: PrivacyPlan, *, sessions: int, seed: int) -> dict[str, Finding]:
    """Attack this number of sessions, for each of the VARIANTS."""
    rng = np.random.default_rng(seed)
    mechanisms = [
        replace(plan.mechanism, variance=factor**2 * plan.mechanism.variance)
        for factor, releases in VARIANTS.values()
        for _ in range(releases)
    ]
    parts = [session_scores(plan, mechanisms, number, rng) for number in range(sessions)]
    scores, coins = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    found, first = {}, 0
    for name, (_, releases) in VARIANTS.items():
        own = slice(first, first + releases)
        guesses = coins[own].size // GUESSED
        right = right_guesses(scores[own].ravel(), coins[own].ravel(), guesses)
        found[name] = Finding(right, guesses, coins[own].size)
        first += releases
    return found


@pytest.mark.slow
def test_the_attack_through_sessions_stays_below_the_claim_and_finds_noise_that_is_halved_or_off() -> None:
    plan = audited_plan()
    assert plan.epsilon == pytest.approx(EPSILON)
    found = attack(plan, sessions=SESSIONS, seed=20231)
    assert found["planned"].canaries == (CLIENTS - VANISH) * RELEASES * SESSIONS == 49_152
    assert 0.4 * EPSILON < found["planned"].epsilon < EPSILON < found["halved"].epsilon, found
    assert found["off"].epsilon > EPSILON, found
