"""The search for a data set's file: places on this machine in a fixed order, then a download."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from fl.data.catalog import IdxFile, IdxSource
from fl.data.download import fetch
from fl.data.idx import expand, read_uncompressed
from fl.errors import DataError
from fl.files import replace_file

ENVIRONMENT_VARIABLE = "SECAGG_DATA"
"""Environment variable with a folder that is searched after `data_dir`, in the same way."""


@dataclass(frozen=True)
class FileFinder:
    """A finder that returns the verified bytes of a source's files. It takes the first file found, in this order:

    1. `data_dir`, 2. the folder that SECAGG_DATA names, 3. the source's system folder, 4. the user's cache,
    5. a download, which is then kept in the cache. In 1, 2 and 4 a subfolder with the name of the file's
    data set (`mnist/`, `fashion-mnist/`, `qmnist/`) comes before the folder itself; the raw file always
    comes before its gzip file.

    A file with a wrong sum is an error, and the search stops: the user who put it there believes that it is used.
    """

    source: IdxSource
    data_dir: Path | None = None
    download: bool = True

    def read(self, file: IdxFile) -> bytes:
        """Return the uncompressed bytes of `file`. Raises DataError if it is missing or its SHA-256 is wrong."""
        for _, folder in self._places(file):
            for path in (folder / file.name, folder / f"{file.name}.gz"):
                if _is_file(path):
                    try:
                        data = read_uncompressed(path)
                    except DataError as error:
                        raise DataError(f"{error}\n{_wanted(file)}") from error
                    self._verify(file, data, where=str(path))
                    return data
        if not self.download:
            raise DataError(self._not_found(file, "downloading is turned off"))
        try:
            packed = fetch(file.url)
        except DataError as error:
            raise DataError(self._not_found(file, str(error))) from error
        try:
            data = expand(packed, source=file.url)
        except DataError as error:
            raise DataError(f"{error}\n{_wanted(file)}") from error
        self._verify(file, data, where=file.url)
        # The data are complete and right, so go on if they cannot be cached (a read-only home folder).
        with contextlib.suppress(OSError):
            _keep(_cache() / file.folder / (file.name if packed is data else f"{file.name}.gz"), packed)
        return data

    def _places(self, file: IdxFile) -> Iterator[tuple[str, Path]]:
        """Return (source of the name, folder), in search order."""
        for label, folder in named_folders(self.data_dir):
            yield label, folder / file.folder
            yield label, folder
        if self.source.system_folder is not None:
            yield "system package", self.source.system_folder
        yield "user cache", _cache() / file.folder

    def _verify(self, file: IdxFile, data: bytes, *, where: str) -> None:
        actual = sha256(data).hexdigest()
        if actual != file.sha256:
            raise DataError(
                f"{where}: not {file.folder}'s {file.name}, or damaged. SHA-256 of the uncompressed bytes is\n"
                f"  {actual}, it should be\n  {file.sha256}.\n"
                "Replace or remove the file, or name another folder."
            )

    def _not_found(self, file: IdxFile, download_failure: str) -> str:
        tried = [f"  - {folder} ({label})" for label, folder in self._places(file)]
        names = ", ".join(f"{file.folder}/{file.name}" for file in self.source.files)
        ways = [
            *([self.source.advice] if self.source.advice else []),
            f"put {names}, raw or .gz, into a folder and name it with --data-dir (argument data_dir) "
            f"or the environment variable {ENVIRONMENT_VARIABLE}",
            "connect to the internet and try again; the download is verified and kept",
        ]
        return "\n".join(
            [
                f"{self.source.name}: {file.name} was not found. Tried, raw and .gz:",
                *tried,
                f"  - download: {download_failure}",
                "Ways to get it:",
                *(f"  - {way}" for way in ways),
            ]
        )


def named_folders(data_dir: Path | None) -> Iterator[tuple[str, Path]]:
    """Return the folders that the user named as (source of the name, folder), in search order."""
    if data_dir is not None:
        yield "data_dir", data_dir
    if variable := os.environ.get(ENVIRONMENT_VARIABLE):
        yield ENVIRONMENT_VARIABLE, Path(variable)


def _wanted(file: IdxFile) -> str:
    return (
        f"It should be {file.folder}'s {file.name}, whose uncompressed bytes have SHA-256\n  {file.sha256}.\n"
        "Replace or remove the file, or name another folder."
    )


def _cache() -> Path:
    return Path(pooch.os_cache("secagg"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _keep(path: Path, data: bytes) -> None:
    """Write `path` in one step, so that no other process reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)
