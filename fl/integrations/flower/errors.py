"""What can go wrong between Flower and secure aggregation, in a sentence for the app's author."""

from fl.errors import FLError


class FlowerError(FLError):
    """Base of this adapter's errors."""


class StrategyRefusedError(FlowerError):
    """A strategy that needs to see the single replies, which secure aggregation hides."""


class RoundAbortedError(FlowerError):
    """A round without a sum, where the app asked to hear of it; nothing was unmasked."""


class OfferError(FlowerError):
    """What opened a session is no offer, or contradicts itself."""


class OtherRunError(OfferError):
    """A node that was told other things of the run than the session was opened for; its text is no secret."""
