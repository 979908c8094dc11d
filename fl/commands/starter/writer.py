"""Copy the starter project to a folder."""

from importlib.resources import files
from pathlib import Path

from fl.errors import ConfigError

FILES = ("README.md", "data.py", "experiment.toml", "models.py", "test_project.py")


def write_project(folder: Path) -> list[Path]:
    """Write the project into ``folder``, which must be missing or empty; return the files.

    Raises:
        ConfigError: the folder is not empty, or cannot be written to; nothing is overwritten.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not an empty folder: choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name in FILES:
            text = files("fl.commands.starter").joinpath("project", name).read_text(encoding="utf-8")
            path = folder / name
            # "x": a file that appeared in the meantime is not overwritten.
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            written.append(path)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None
    return written
