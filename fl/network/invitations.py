"""The choice of a round's clients: all enrolled clients, or a random sample of the connected ones.

In private rounds that is a Poisson sample: each connected client is asked with the same probability, on its own.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import secagg
from fl.network.errors import RoundFailedError
from fl.network.session_thread import SessionThread
from fl.runs.sampling import poisson_sample
from fl.watch import Events
from secagg import ClientId, PlanError
from transport import Deadlines
from transport.certificates.exclusion import Exclusions

# How often the number of connected clients is printed, while it is too small and changes.
_NEWS_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRules:
    """The rules of rounds; they do not change the meaning of a sum.

    Attributes:
        min_clients: the number of enrolled clients that must be connected before a round begins.
        invited: the number of connected clients that are asked, drawn at random. A round begins as soon as this many
            are connected, or with fewer after the time to join. None: all enrolled clients are asked.
        goal: the number of masked inputs with which a round continues without the other clients. None: it waits for
            all, up to the deadline.
        give_up: seconds to wait for clients before the server stops. None: it never stops.
        retries: how often an aborted round is tried again.
        deadlines: the deadlines of the protocol's rounds.
    """

    min_clients: int
    invited: int | None = None
    sampling_rate: float | None = None
    goal: int | None = None
    give_up: float | None = None
    retries: int = 3
    deadlines: Deadlines


class SessionsToPlan(Protocol):
    """The plans of sessions with any number of clients."""

    def plan(self, num_clients: int) -> secagg.Plan:
        """Return the plan; PlanError if there is none for so many."""
        ...


class Invitations:
    """Waits for the clients of a round, and draws the clients that are asked.

    Args:
        plans: the plans of the round's sessions; only numbers of clients that have a plan are asked.
        sessions: the listening server.
        enrolled: the clients that may be asked.
        rules: the rules of rounds.
        say: prints one line for the user.
        exclusions: the enrolled clients that are refused.
        watch: receives the number of clients while the server waits.
    """

    def __init__(
        self,
        plans: SessionsToPlan,
        sessions: SessionThread,
        enrolled: tuple[ClientId, ...],
        rules: ServingRules,
        say: Callable[[str], None],
        exclusions: Exclusions | None = None,
        watch: Events | None = None,
    ) -> None:
        self._plans = plans
        self._sessions = sessions
        self._enrolled = enrolled
        self._rules = rules
        self._say = say
        self._exclusions = exclusions
        self._watch = watch
        # The choice must be unpredictable: with a known seed, an adversary could place corrupt clients in the sample.
        self._random = random.SystemRandom()

    @property
    def allowed(self) -> tuple[ClientId, ...]:
        """The enrolled clients, without the ids on the operator's list of refused clients."""
        excluded = frozenset() if self._exclusions is None else self._exclusions.client_ids
        return tuple(client_id for client_id in self._enrolled if client_id not in excluded)

    def next(self, number: int) -> tuple[ClientId, ...]:
        """Wait until enough clients are connected, and return the clients to ask in round ``number``.

        With a sampling rate they can be too few for a session, or none.

        Raises:
            RoundFailedError: too few clients connect in the time that the rules allow.
        """
        needed, give_up, said = self._rules.min_clients, self._rules.give_up, ""
        patience = math.inf if give_up is None else give_up
        until = time.monotonic() + patience
        while True:
            present = self._sessions.wait_for_clients(needed, min(_NEWS_SECONDS, patience))
            state, now, then = f"{len(present)} of {needed}", " are there", " clients were there"
            if len(present) >= needed and self._rules.sampling_rate is not None:
                # The draw comes after the wait for all, so that it decides nothing about who is there.
                present = self._sessions.wait_for_clients(len(self.allowed), self._rules.deadlines.advertise_keys)
                return tuple(
                    sorted(present)[place] for place in poisson_sample(len(present), self._rules.sampling_rate)
                )
            if len(present) >= needed:
                if chosen := self._chosen(present):
                    return chosen
                state, now, then = "too few for a safe session", "", ""
                time.sleep(min(1.0, patience))
            if (patience := until - time.monotonic()) <= 0:
                raise RoundFailedError(f"round {number} was not begun: {state}{then} after {give_up:g} s")
            if state != said:
                self._say(f"round {number} waits for clients: {state}{now}")
                if self._watch is not None:
                    self._watch.clients_awaited(number, len(present), needed)
                said = state

    def _chosen(self, present: tuple[ClientId, ...]) -> tuple[ClientId, ...]:
        """Return the clients of a round; empty if there is no plan for a session of them."""
        if self._rules.invited is None:
            allowed = self.allowed
            return allowed if self._most(len(allowed), len(allowed)) else ()
        if len(present) < self._rules.invited:
            window = self._rules.deadlines.advertise_keys
            present = self._sessions.wait_for_clients(self._rules.invited, window)
        count = self._most(min(self._rules.invited, len(present)), self._rules.min_clients)
        return tuple(sorted(self._random.sample(sorted(present), count)))

    def _most(self, most: int, fewest: int) -> int:
        """Return the largest number of clients from ``fewest`` to ``most`` that has a plan; 0 if there is none."""
        for count in range(most, max(fewest, 2) - 1, -1):
            try:
                self._plans.plan(count)
            except PlanError:
                continue
            return count
        return 0
