"""A served private run: its plans, its ledger, its clip, and how its sums are read."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fl.aggregation.api import RoundResult
from fl.aggregation.private_session import (
    PrivateEncoding,
    PrivateFigures,
    PrivatePlans,
    PrivateSession,
    ScoresEncoding,
)
from fl.errors import ConfigError, FLError
from fl.network.announcement import RoundAnnouncement
from fl.network.policy import Encoding
from fl.privacy.clipping import Clipping
from fl.privacy.ledger import Ledger
from secagg import Aborted, Completed, PlanError


class TooFewDrawnError(FLError):
    """By chance, a private round has too few clients for a sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRun:
    """What a served private run keeps from round to round.

    Attributes:
        plans: the plans of its sessions.
        ledger: what the run has spent.
        clipping: the clip, which may follow the updates.
        figures: the figures that clients report; None if they report none.
        keep_ledger: called after a charge, before a client learns of the session: another machine may go on with it.
    """

    plans: PrivatePlans
    ledger: Ledger
    clipping: Clipping
    figures: PrivateFigures | None
    keep_ledger: Callable[[], None] = lambda: None

    def session(self, num_clients: int, announcement: RoundAnnouncement) -> PrivateSession:
        """Return the numbers of an announced session; TooFewDrawnError if there is no sum of so few clients."""
        try:
            if announcement.purpose == "scores":
                return self.plans.scores(num_clients)
            return self.plans.session(num_clients, self.clipping.clip)
        except (PlanError, ConfigError) as error:
            raise TooFewDrawnError(str(error)) from None

    def charge(self, number: int, session: PrivateSession) -> None:
        """Charge a session of this round, before any client learns of it; errors as for `Ledger.charge`."""
        self.ledger.charge(number, session.release)
        self.keep_ledger()

    def encoding(self, session: PrivateSession, announcement: RoundAnnouncement) -> PrivateEncoding | ScoresEncoding:
        """Return the encoding of an announced session."""
        kind = ScoresEncoding if announcement.purpose == "scores" else PrivateEncoding
        return kind.of(session.terms.mechanism, self.figures, session.parameters)

    def with_mean(
        self, cost: RoundResult, outcome: Completed | Aborted, encoding: Encoding, context: bytes
    ) -> RoundResult:
        """Return the result of a session of updates; the clip follows.

        Args:
            cost: the session's cost.
            outcome: its outcome.
            encoding: the encoding of its inputs.
            context: the bytes that it is bound to.
        """
        assert isinstance(encoding, PrivateEncoding)  # noqa: S101 - the session is private
        cost = replace(cost, l2_clip=encoding.mechanism.clip)
        if isinstance(outcome, Aborted):
            return replace(cost, aborted=str(outcome))
        mean = encoding.decode(outcome, context=context)
        if mean.within_clip is not None:
            self.clipping.follow(mean.within_clip)
        return replace(cost, aggregate=mean, included=outcome.included)
