"""Files that are replaced in one step: a reader sees the old one or the new one, never a part."""

import os
import tempfile
from pathlib import Path

from fl.errors import ConfigError


def replace_file(path: Path, data: bytes) -> None:
    """Write ``path``, readable as what the user writes. ConfigError if that cannot be done; the old file then stays."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                mask = os.umask(0)
                os.umask(mask)
                temporary.chmod(0o666 & ~mask)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
