"""Errors of an encrypted evaluation that the user can act on."""

from fl.errors import ConfigError, FLError


class UnsupportedModelError(ConfigError):
    """The model has layers that cannot run on secret shares; the message names each of them, with the reason."""


class PrecisionError(ConfigError):
    """The range of the model's values is so wide that too few bits are left for precision."""


class EncryptedEvaluationError(FLError):
    """An encrypted evaluation did not finish; the message names the failed party, if it is known."""
