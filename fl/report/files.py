"""Write files of a report."""

from pathlib import Path

from fl import files
from fl.errors import ConfigError


def replace_file(path: Path, data: bytes) -> None:
    """Write ``path`` in one step; ConfigError if that fails, and the old file stays."""
    try:
        files.replace_file(path, data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
