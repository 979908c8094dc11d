"""Who is asked to take part in a round: all who are enrolled, or some of those who are there."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from fl.aggregation.planning import SessionPlans
from fl.network.errors import RoundFailedError
from fl.network.session_thread import SessionThread
from fl.watch import Events
from secagg import ClientId, PlanError
from transport import Deadlines
from transport.certificates.exclusion import Exclusions

# How often the user is told how many clients are there, while they are too few and their number changes.
_NEWS_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRules:
    """How rounds are run; nothing in it changes what a sum is.

    Attributes:
        min_clients: how many enrolled clients must be present before a round begins.
        invited: how many of those present are asked, drawn at random. A round begins as soon as so many are there, or
            with fewer after the seconds in which they may join. None: everybody who is enrolled is asked.
        goal: masked inputs with which a round goes on without the others. None: it waits for all, up to the deadline.
        give_up: seconds to wait for clients before the server ends; None: no end.
        retries: how often a round that was begun and aborted is tried again.
        deadlines: of the protocol's rounds.
    """

    min_clients: int
    invited: int | None = None
    goal: int | None = None
    give_up: float | None = None
    retries: int = 3
    deadlines: Deadlines


class Invitations:
    """Waits for the clients of a round, and draws those who are asked.

    Args:
        plans: of the round's sessions: of the numbers of clients for which there is none, none is asked.
        sessions: where clients wait.
        enrolled: who may be asked.
        rules: see there.
        say: tells the user something, a line at a time.
        exclusions: who of the enrolled is shut out.
        watch: is told who is waited for.
    """

    def __init__(
        self,
        plans: SessionPlans,
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
        # Whom the server asks is not to be foreseen: a seed that is known would say where to put corrupt clients.
        self._random = random.SystemRandom()

    @property
    def allowed(self) -> tuple[ClientId, ...]:
        """The enrolled clients, without those that the operator's list shuts out by their ids."""
        excluded = frozenset() if self._exclusions is None else self._exclusions.client_ids
        return tuple(client_id for client_id in self._enrolled if client_id not in excluded)

    def next(self, number: int) -> tuple[ClientId, ...]:
        """Who is asked to take part in round ``number``, once enough are there.

        Raises:
            RoundFailedError: they do not come before the rules say to give up.
        """
        needed, give_up, said = self._rules.min_clients, self._rules.give_up, ""
        patience = math.inf if give_up is None else give_up
        until = time.monotonic() + patience
        while True:
            present = self._sessions.wait_for_clients(needed, min(_NEWS_SECONDS, patience))
            state, now, then = f"{len(present)} of {needed}", " are there", " clients were there"
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
        """Those of a round for which enough are there; nobody, if no session of them can be."""
        if self._rules.invited is None:
            allowed = self.allowed
            return allowed if self._most(len(allowed), len(allowed)) else ()
        if len(present) < self._rules.invited:
            window = self._rules.deadlines.advertise_keys
            present = self._sessions.wait_for_clients(self._rules.invited, window)
        count = self._most(min(self._rules.invited, len(present)), self._rules.min_clients)
        return tuple(sorted(self._random.sample(sorted(present), count)))

    def _most(self, most: int, fewest: int) -> int:
        """The largest number of clients, among these, that there is a plan for; 0 if there is none."""
        for count in range(most, max(fewest, 2) - 1, -1):
            try:
                self._plans.plan(count)
            except PlanError:
                continue
            return count
        return 0
