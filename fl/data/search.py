"""Where a data set's file is on this machine, or from where it is brought: the places in their fixed order."""

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
"""Names a folder that is searched like the `data_dir` argument, after it."""


@dataclass(frozen=True)
class FileFinder:
    """Gives the verified bytes of a source's files. First found, first taken, in this order:

    1. `data_dir`, 2. the folder that SECAGG_DATA names, 3. the source's system folder, 4. the user's cache,
    5. a download, which is then kept in the cache. In 1, 2 and 4 a subfolder with the name of the file's
    data set (`mnist/`, `fashion-mnist/`, `qmnist/`) comes before the folder itself; everywhere the raw file
    comes before its gzip file.

    A file whose sum is wrong is an error and not a reason to look further: whoever put it there believes
    that it is in use.
    """

    source: IdxSource
    data_dir: Path | None = None
    download: bool = True

    def read(self, file: IdxFile) -> bytes:
        """The uncompressed bytes of `file`, whose SHA-256 is right. Raises DataError otherwise."""
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
        # The data are here and right; that they cannot be kept (a read-only home) is no reason to stop.
        with contextlib.suppress(OSError):
            _keep(_cache() / file.folder / (file.name if packed is data else f"{file.name}.gz"), packed)
        return data

    def _places(self, file: IdxFile) -> Iterator[tuple[str, Path]]:
        """(who named it, folder), in order."""
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
    """The folders that the user named: (how, folder), in the order of the search."""
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
    """Write `path` in one step: another process must never read half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)
