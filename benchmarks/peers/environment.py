"""Find the peers' Python, and run their scripts with it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INSTALL = "run `make .venv/peers`, or set SECAGG_PEERS_PYTHON to a Python that has it"

_HERE = Path(__file__).parent
_OWN_ENVIRONMENT = _HERE.parent.parent / ".venv-peers" / "bin" / "python"


def interpreter() -> str:
    """Return SECAGG_PEERS_PYTHON, else the Python of .venv-peers, else the present Python."""
    if chosen := os.environ.get("SECAGG_PEERS_PYTHON"):
        return chosen
    return str(_OWN_ENVIRONMENT) if _OWN_ENVIRONMENT.exists() else sys.executable


def require(module: str) -> None:
    """Skip the benchmark if a peer cannot be imported, and say how to install it."""
    try:
        # Importing Flower takes seconds, so this looks for it without loading it.
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        found = _run(["-c", code]).returncode == 0
    except OSError:
        found = False
    if not found:
        pytest.skip(f"{module} is not installed for the peers' Python: {INSTALL}")


def run_script(name: str, **options: float | str) -> dict[str, Any]:
    """Run one of this folder's scripts with the peers' Python; return its output."""
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    done = _run([str(_HERE / name), *arguments])
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"{name} ended with code {done.returncode}: {lines[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    # -P: files next to the script, or in the current folder, must not replace a package of the same name.
    command = [interpreter(), "-P", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours, or the user's
