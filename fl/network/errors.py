"""What ends a networked training, in a sentence for its user."""

from fl.errors import FLError


class NetworkError(FLError):
    """The other side, the network, certificates or a journal: it does not go on from here."""


class AnnouncementError(FLError):
    """An offer whose announcement is none, or contradicts itself."""


class AnnouncementVersionError(AnnouncementError):
    """An announcement of a version that is not read here."""


class OlderAnnouncementError(AnnouncementVersionError):
    """An announcement of a version that is not read here any more."""


class RoundFailedError(NetworkError):
    """A round that was aborted as often as it may be; the model is as it was before."""
