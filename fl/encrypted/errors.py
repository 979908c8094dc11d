"""What can go wrong in an encrypted evaluation for a reason that the user can act on."""

from fl.errors import ConfigError, FLError


class UnsupportedModelError(ConfigError):
    """The model has layers that cannot run on secret shares; the message names every one, and why."""


class PrecisionError(ConfigError):
    """The model's values range so widely that too few bits are left for precision."""


class EncryptedEvaluationError(FLError):
    """An encrypted evaluation that did not come to its end; whose fault it was, as far as can be told."""
