"""What can go wrong between Flower and secure aggregation, in a sentence for the app's author."""

from fl.errors import FLError, PublicError


class FlowerError(FLError):
    """Base of this adapter's errors."""


class StrategyRefusedError(FlowerError):
    """A strategy that needs to see the single replies, which secure aggregation hides."""


class RoundAbortedError(FlowerError):
    """Rounds without a sum: as many as the app goes on after, or all of a training, or one where it asked to hear."""


class OfferError(FlowerError, PublicError):
    """What the server sent opens no session, or does not belong to the one that is open; it may hear which."""


class OtherRunError(OfferError):
    """A node that was told other things of the run than the session was opened for."""
