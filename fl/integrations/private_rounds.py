"""The server's side of private sessions in a framework: their numbers for any number of clients, and the ledger."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl.aggregation.private_session import PrivatePlans, PrivateSession
from fl.errors import ConfigError
from fl.privacy.budget import Budget
from fl.privacy.ledger import Ledger
from fl.privacy.planner import plan_private


@dataclass(slots=True)
class PrivateRounds:
    """Plans a training's private sessions, and charges each before a client is asked.

    The plan is made for the number of clients of the first round; in other rounds each client's noise is for theirs.

    Args:
        budget: the training's budget; see `check_budget`.
        ledger: the file of the ledger, which goes on if it exists. None: nothing outlives the program.
        model: dropout, corrupt, adversary, threshold and min_inputs, as for `secagg.plan`.

    Raises:
        ConfigError: the ledger cannot be used.
    """

    budget: Budget
    ledger: Ledger
    model: dict[str, Any]
    _plans: PrivatePlans | None = None

    @classmethod
    def of(cls, budget: Budget, path: str | os.PathLike[str] | None, model: dict[str, Any]) -> "PrivateRounds":
        """Open the ledger; ConfigError if it cannot be used."""
        if path is None:
            return cls(budget, Ledger(None, budget.epsilon, budget.delta), model)
        return cls(budget, Ledger.open(Path(path), epsilon=budget.epsilon, delta=budget.delta), model)

    def session(self, num_clients: int, length: int) -> PrivateSession:
        """Return the numbers of the next session; PlanError or ConfigError if they do not work together."""
        if self._plans is None or self._plans.private.mechanism.length != length:
            private = plan_private(self.budget, num_clients=num_clients, length=length, **self.model)
            self._plans = PrivatePlans(private, self.model)
        return self._plans.session(num_clients)

    def charge(self, session: PrivateSession) -> float:
        """Charge a session before any client is asked, and return the epsilon that is then spent.

        Raises:
            EpsilonSpentError: the budget would be exceeded.
            ConfigError: the ledger cannot be written.
        """
        return self.ledger.charge(len(self.ledger.charges) + 1, session.release)


def check_budget(budget: object) -> list[str]:
    """Return what is wrong with a budget for rounds whose clients a framework chooses."""
    if not isinstance(budget, Budget):
        return [f"privacy must be a fl.privacy.budget.Budget, not {budget!r}"]
    problems = budget.faults()
    if budget.sampling_rate != 1.0:
        problems.append(
            "frameworks do not draw each client by itself, so sampling gains no privacy: leave out sampling_rate"
        )
    if budget.exact:
        problems.append("frameworks do not know noise in components that are taken off: leave out exact")
    if budget.figures or budget.scores:
        problems.append("metrics do not travel in private sessions of frameworks: leave out figures and scores")
    return problems


def require_budget(budget: object) -> None:
    """Raise ConfigError, with all problems, for a budget that `check_budget` finds wrong."""
    if problems := check_budget(budget):
        raise ConfigError("; ".join(problems))
