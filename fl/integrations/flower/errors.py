"""Errors of the adapter for Flower; each text is a sentence for the author of the app."""

from fl.errors import FLError, PublicError


class FlowerError(FLError):
    """Base of this adapter's errors."""


class StrategyRefusedError(FlowerError):
    """A strategy that needs the single replies, which secure aggregation hides."""


class RoundAbortedError(FlowerError):
    """Rounds without a sum: more in a row than the settings allow, all of a training, or one if on_abort is "raise"."""


class OfferError(FlowerError, PublicError):
    """A server's message that opens no session, or does not belong to the open one. The text is public."""


class OtherRunError(OfferError):
    """A node that was told another run or configuration than the session was opened for."""
