"""Errors of the adapter for NVFlare; each text says what to do."""

from fl.errors import ConfigError, FLError, PublicError
from transport.errors import InputWithheldError


class NVFlareJobError(ConfigError):
    """A recipe or a job that cannot be made secure, or an argument out of range."""


class TaskAnnouncementError(FLError):
    """A round that this site takes no part in: the announcement is malformed, or meant for other sites."""


class ModelError(PublicError):
    """A model or an update that cannot be averaged because of its names, shapes or types. The text is public."""


class TrainingFailedError(FLError):
    """A trainer that gives no update. The site sends an input that counts nothing, so that this stays secret."""


class UpdateRefusedError(InputWithheldError, PublicError):
    """An update that is not sent; the server may be told the reason."""
