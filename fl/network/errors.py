"""Errors that end a training over the network; each text is a sentence for the user."""

from fl.errors import FLError


class NetworkError(FLError):
    """Training cannot continue because of the other side, the network, certificates or a journal."""


class AnnouncementError(FLError):
    """An offer's announcement cannot be read, or contradicts itself."""


class AnnouncementVersionError(AnnouncementError):
    """An announcement has a version that is not read here."""


class OlderAnnouncementError(AnnouncementVersionError):
    """An announcement has a version that is no longer read here."""


class RoundFailedError(NetworkError):
    """Rounds failed more often or longer than the rules allow; the model is unchanged."""
