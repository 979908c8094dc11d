"""What this integration refuses, each with what to do."""

from fl.errors import ConfigError, FLError, PublicError
from transport.errors import InputWithheldError


class NVFlareJobError(ConfigError):
    """A recipe or a job that cannot be made secure, or arguments out of range."""


class AnnouncementError(FLError):
    """A round that this site takes no part in: what the server announced is malformed, or meant for others."""


class ModelError(PublicError):
    """A model or an update that cannot be averaged for its names, shapes or types. The text is public."""


class UpdateRefusedError(InputWithheldError, PublicError):
    """An update that is not sent, for a reason that the server may be told."""
