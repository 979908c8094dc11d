"""What this integration refuses, each with what to do."""

from fl.errors import ConfigError, FLError


class NVFlareJobError(ConfigError):
    """A recipe or a job that cannot be made secure, or arguments out of range."""


class AnnouncementError(FLError):
    """A round that this site takes no part in: what the server announced is malformed, or meant for others."""


class ModelError(FLError):
    """A model or an update that cannot be averaged."""
