"""What can go wrong in `fl/` for a reason that the user can act on."""


class FLError(Exception):
    """Base of every error that `fl/` raises on purpose; anything else that escapes is a bug."""


class DataError(FLError):
    """A data set is missing, damaged, or not what it says it is."""


class AbortedError(FLError):
    """A training whose rounds were all aborted: too few clients stayed for a single sum."""


class EngineError(FLError):
    """Clients cannot be trained, and not for a reason of theirs: the processes or machines that train them fail."""


class ConfigError(FLError):
    """Settings that do not fit each other, the data or the model."""
