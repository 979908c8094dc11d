"""The machine of a result: data to compare machines, without anything that identifies the machine."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

# The CPU flags that decide the speed of the mask generator and of matrix products.
_FLAGS = ("aes", "vaes", "avx2", "avx512f")


def describe() -> dict[str, Any]:
    """Return CPU, memory (bytes), operating system and relevant versions as plain JSON values."""
    from cryptography.hazmat.backends.openssl import backend

    cpu = _cpu_info()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "memory_bytes": _memory_bytes(),
        "os": _os_name(),
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "cryptography": metadata.version("cryptography"),
        "openssl": backend.openssl_version_text(),
    }


def commit(repository: Path) -> str | None:
    """Return the short hash of ``repository``'s commit, with a "+" if files differ from it; None without git."""
    head = _git(repository, "rev-parse", "--short", "HEAD")
    if not head:
        return None
    # Runs write results, which do not change the code.
    changes = _git(repository, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return f"{head}+" if changes else head


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            ["git", *arguments],  # noqa: S607
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_info() -> dict[str, str]:
    """Return the first processor's lines of /proc/cpuinfo; empty without that file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _os_name() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = f"{platform.system()} {platform.release()}"
    return f"{name}, {platform.machine()}"
