"""An object whose large tensors several processes of this machine share instead of copying.

Pickle holds the small parts; large tensors are in a file without a name, which each process maps. The file is in memory
(memfd) if the system supports that, and is freed when the last process with it open ends. Unlike torch's own sharing,
it needs neither space in /dev/shm, which is small in containers, nor a process that cleans up.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
import warnings
from typing import Any, BinaryIO, TypeAlias

import cloudpickle
import torch

# Smaller tensors are copied, since sharing them gains nothing.
_LARGE = 1 << 16
# The alignment of torch's own memory.
_ALIGNMENT = 64
_Place: TypeAlias = tuple[int, torch.dtype, tuple[int, ...]]
Buffer: TypeAlias = "mmap.mmap | memoryview"


class SharedObject:
    """An object in a shared file. Raises pickle's errors for objects that cannot be pickled."""

    def __init__(self, value: object) -> None:
        self._file = _unnamed_file()
        try:
            self.size = dump(value, self._file)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the file's descriptor, for a child to inherit."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file here; children that have it open keep it. May be called again."""
        self._file.close()


def load_shared(descriptor: int, size: int) -> Any:
    """Load the object from the file of the parent's `SharedObject`; writes to it stay in this process."""
    # A private mapping, so that a write to the examples does not change those of other processes.
    memory = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return load(memory, size)


def dump(value: object, file: BinaryIO) -> int:
    """Write an object to an empty file, large tensors first; return the position where the rest begins."""
    pickled = io.BytesIO()
    _Pickler(pickled, file).dump(value)
    size = file.tell()
    file.write(pickled.getbuffer())
    file.flush()
    return size


def load(memory: Buffer, size: int) -> Any:
    """Return the object that `dump` wrote. Its large tensors use ``memory``; if that is read-only, do not change them.

    Security: unpickling runs code. Load only data that this program's own parent or driver has written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return _Unpickler(io.BytesIO(memoryview(memory)[size:]), memory).load()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Pickles what a script or notebook defines itself by value: the other process cannot import it."""

    def __init__(self, pickled: io.BytesIO, file: BinaryIO) -> None:
        super().__init__(pickled, protocol=5)
        self._file = file
        # A tensor with two names stays one tensor. Keep references to the tensors, so that no id is reused.
        self._places: dict[int, tuple[_Place, torch.Tensor]] = {}

    def persistent_id(self, value: object) -> _Place | None:
        # No subclasses: parameters have more state than values.
        if type(value) is not torch.Tensor or value.requires_grad or value.layout != torch.strided:
            return None
        if value.device.type != "cpu" or value.nbytes < _LARGE:
            return None
        if id(value) not in self._places:
            self._file.seek(-self._file.tell() % _ALIGNMENT, os.SEEK_CUR)
            place = (self._file.tell(), value.dtype, tuple(value.shape))
            self._file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            self._places[id(value)] = place, value
        return self._places[id(value)][0]


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: io.BytesIO, memory: Buffer) -> None:
        super().__init__(pickled)
        self._memory = memory
        self._tensors: dict[int, torch.Tensor] = {}

    def persistent_load(self, place: _Place) -> torch.Tensor:
        start, dtype, shape = place
        if start not in self._tensors:
            count = torch.Size(shape).numel()
            self._tensors[start] = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=start).view(shape)
        return self._tensors[start]


def _unnamed_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("secagg-worker"), "w+b")
    return tempfile.TemporaryFile()
