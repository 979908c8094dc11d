"""Limit what a client gives away: it computes the epsilon of each round itself, and keeps its own ledger.

A server's epsilon is for those who do not know who took part.  The server knows, so a client counts without the gain by
sampling, and counts the noise that it can be sure of:

- its own;
- in a session that is safe against a server that lies, that of the others in the smallest sum, which has as many inputs
  as the session's threshold, less the clients that it assumes to be corrupt (`secagg.SessionPolicy.corrupt`);
- in honest-but-curious mode the same only if it trusts the server to follow the protocol, as its `SessionPolicy` says.
  A server that lies there can get one vector alone, with that client's noise only: `alone`.

The ledger is charged, on disk, before the masked input can leave, whatever is in it: also if training failed, since
everything that a client sends in a private session comes from its examples.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

from fl.errors import ConfigError
from fl.privacy.accounting import Release, epsilon_of, least_epsilon
from fl.privacy.exact_noise import base_variance
from fl.privacy.ledger import LEDGER, Ledger
from fl.privacy.terms import PrivateTerms
from secagg import Adversary, Parameters, PolicyError, SessionPolicy
from secagg.planner import fraction_of

_MOST_EPSILON = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPolicy:
    """A client's limits. Sessions without noise are refused.

    Attributes:
        max_epsilon: the most that all rounds together may give away of this client.
        delta: the probability that these bounds fail; well below 1 over the number of clients.
        max_epsilon_per_round: the most that one round may give away. None: only the sum is bounded.
        min_honest: the fewest honest clients, itself included, in any sum that it takes part in.

    Raises:
        ConfigError: a limit is out of range or out of reach.
    """

    max_epsilon: float
    delta: float
    max_epsilon_per_round: float | None = None
    min_honest: int = 1

    def __post_init__(self) -> None:
        wrong = []
        if not 0 < self.delta <= 0.5:
            wrong.append(f"delta is {self.delta}, but must be above 0 and at most 0.5")
        for name, value in (("max-epsilon", self.max_epsilon), ("max-epsilon-per-round", self.max_epsilon_per_round)):
            if value is not None and not 0 < value <= _MOST_EPSILON:
                wrong.append(f"{name} is {value}, but must be above 0 and at most {_MOST_EPSILON:g}")
            elif value is not None and 0 < self.delta <= 0.5 and value <= (least := least_epsilon(self.delta)):
                wrong.append(
                    f"{name} {value:g} is out of reach: no noise proves less than {least:.4f} at delta {self.delta:g}"
                )
        if self.min_honest < 1:
            wrong.append(f"min-honest is {self.min_honest}, but must be at least 1")
        if wrong:
            raise ConfigError("; ".join(wrong))


def honest_clients(terms: PrivateTerms, params: Parameters, policy: SessionPolicy) -> int:
    """Return the fewest clients in a sum, this one included, whose noise a client with this policy counts.

    The larger of its own and the announced number of corrupt clients counts. With exact noise the sum still has at
    least the whole noise of that many honest clients, however many stay: noise is taken off for the announced number.
    """
    if not (params.is_complete and _has_all_inputs(params, policy)):
        return 1
    return max(1, params.threshold - _corrupt(terms, params, policy))


def _corrupt(terms: PrivateTerms, params: Parameters, policy: SessionPolicy) -> int:
    return max(terms.corrupt, params.corrupt_clients, fraction_of(policy.corrupt, params.num_clients))


def _has_all_inputs(params: Parameters, policy: SessionPolicy) -> bool:
    """Return whether a client can be sure that whatever the server learns is a sum of at least `threshold` inputs."""
    return params.is_signed or policy.adversary is Adversary.HONEST_BUT_CURIOUS


def own_variance(terms: PrivateTerms, params: Parameters) -> float:
    """Return the variance of a client's noise that nobody else can take off, in steps squared.

    With exact noise it is that of the base: enough shares of all other seeds may come together where a server lies to
    clients that trust it, or where as many clients are corrupt as hold a secret.
    """
    return base_variance(terms.mechanism, params) if params.noise_components else terms.mechanism.variance


class PrivacyAccount:
    """A client's limits, and what it has spent of them.

    Args:
        limits: the client's limits.
        session_policy: its conditions for sessions, with its assumptions about server and clients.
        folder: the folder of the ledger, which one process at a time may use; it is made if it does not exist. None:
            nothing outlives this program, so that a client that is started again forgets what it has spent.

    Raises:
        ConfigError: the ledger cannot be read or written.
    """

    def __init__(self, limits: PrivacyPolicy, session_policy: SessionPolicy, folder: Path | None) -> None:
        self.limits = limits
        self._policy = session_policy
        self._lock = threading.Lock()
        self._is_closed = False
        self.ledger = Ledger(None, limits.max_epsilon, limits.delta)
        if folder is not None:
            self.ledger = Ledger.open(folder / LEDGER, epsilon=limits.max_epsilon, delta=limits.delta)

    @property
    def spent(self) -> float:
        """Return the epsilon of all rounds so far, at the limits' delta."""
        return self.ledger.spent

    def release(self, terms: PrivateTerms, params: Parameters) -> Release:
        """Return what a session gives away of this client, as far as it can be sure."""
        honest = honest_clients(terms, params, self._policy)
        holds = _has_all_inputs(params, self._policy) and _corrupt(terms, params, self._policy) < params.threshold
        return terms.release(honest, None if holds else own_variance(terms, params))

    def epsilon(self, terms: PrivateTerms, params: Parameters) -> float:
        """Return the epsilon of one session."""
        return epsilon_of(self.release(terms, params).divergences(), self.limits.delta)

    def alone(self, terms: PrivateTerms, params: Parameters) -> float:
        """Return the epsilon of one session for somebody who gets this client's vector alone."""
        return epsilon_of(terms.release(1, own_variance(terms, params)).divergences(), self.limits.delta)

    def check(self, terms: PrivateTerms | None, params: Parameters, *, session: bytes = b"") -> None:
        """Raise PolicyError, with all reasons, if this client does not take part on these terms.

        Args:
            terms: the announced terms; None for a session without noise.
            params: the session's parameters, which `secagg.SessionPolicy` has accepted.
            session: as for `charge`; a session that is charged already has its place in the limits.
        """
        if terms is None:
            raise PolicyError(
                "the session has no noise, but this client has a limit of privacy: only servers with --epsilon suit it"
            )
        reasons = terms.contradictions(params)
        limits, honest = self.limits, honest_clients(terms, params, self._policy)
        if honest < limits.min_honest:
            reasons.append(f"this client counts on {honest} honest clients in a sum, but asks for {limits.min_honest}")
        epsilon = self.epsilon(terms, params)
        counted = f"with the noise of {honest} honest clients"
        if not _has_all_inputs(params, self._policy):
            counted = "with its own noise alone, since in this mode a server that lies can get its vector alone"
        most = limits.max_epsilon_per_round
        if most is not None and epsilon > most:
            reasons.append(f"the round would have epsilon {epsilon:.4g} ({counted}), but at most {most:g} is allowed")
        release = self.release(terms, params)
        if not (self.ledger.is_charged(session, release) or self.ledger.allows(release)):
            reasons.append(
                f"the round, of epsilon {epsilon:.4g} ({counted}), would bring this client above its limit of "
                f"{limits.max_epsilon:g}: {self.spent:.4g} are spent"
            )
        if reasons:
            raise PolicyError("; ".join(reasons))

    def charge(self, terms: PrivateTerms, params: Parameters, round_number: int, *, session: bytes) -> float:
        """Charge a session, on disk, and return the epsilon that is then spent; nothing may leave before.

        Args:
            terms, params: the session's, which `check` has accepted.
            round_number: the round's number.
            session: a name of the session that nobody can give to another one. A session that goes on after a crash is
                charged once; every other one is a new look at this client, with new noise.

        Raises:
            EpsilonSpentError: the limit would be exceeded.
            ConfigError: the ledger cannot be written, or this account is closed.
        """
        with self._lock:
            if self._is_closed:
                raise ConfigError("this client's account of privacy is closed: another process may use its ledger now")
            return self.ledger.charge(round_number, self.release(terms, params), session=session)

    def close(self) -> None:
        """Charge nothing more: whoever comes next may write the ledger. It waits for a charge that is being written."""
        with self._lock:
            self._is_closed = True
