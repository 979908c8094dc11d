"""JSON files that are complete at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fl.errors import ConfigError
from fl.files import replace_file
from fl.formatting import finite


def write_json(path: Path, value: Any) -> None:
    """Replace the file in one step, and make its folder; raise ConfigError if it cannot be written.

    Numbers that are not finite (of a diverged model) become null, since JSON cannot hold them.
    """
    data = json.dumps(finite(value), indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data.encode())
    except OSError as error:
        raise ConfigError(f"cannot write to {path}: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """Return the file's content, None without a file; raise ConfigError if it cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a file of this program, or is damaged: {error}") from error
