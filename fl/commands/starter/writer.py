"""Copies the starter project."""

from importlib.resources import files
from pathlib import Path

from fl.errors import ConfigError

FILES = ("README.md", "data.py", "experiment.toml", "models.py", "test_project.py")


def write_project(folder: Path) -> list[Path]:
    """Write the project into ``folder``, which is made, or is there and empty; returns the files.

    Raises:
        ConfigError: something is in the folder already, or it cannot be written to; nothing is overwritten.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is there already, and is no empty folder: choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name in FILES:
            text = files("fl.commands.starter").joinpath("project", name).read_text(encoding="utf-8")
            path = folder / name
            # "x": whatever came there in the meantime stays.
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            written.append(path)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None
    return written
