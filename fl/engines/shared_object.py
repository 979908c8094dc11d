"""An object whose large tensors several processes of this machine share instead of copying.

Pickle holds the small things; large tensors lie behind it in a file without a name, which each process maps. The file
is memory (memfd) where the system has that, and gone when the last process that has it open ends. Unlike torch's own
sharing, it needs neither room in /dev/shm, which containers have little of, nor a process that cleans up.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
import warnings
from typing import Any, BinaryIO, TypeAlias

import torch

# Below it, a tensor is as well copied.
_LARGE = 1 << 16
# What torch aligns its own memory to.
_ALIGNMENT = 64
_Place: TypeAlias = tuple[int, torch.dtype, tuple[int, ...]]
Buffer: TypeAlias = "mmap.mmap | memoryview"


class SharedObject:
    """Puts an object into a shared file. Raises what pickle raises for an object that cannot be pickled."""

    def __init__(self, value: object) -> None:
        self._file = _unnamed_file()
        try:
            self.size = dump(value, self._file)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The file, for a child to inherit."""
        return self._file.fileno()

    def close(self) -> None:
        """Children that have it open keep it; may be called again."""
        self._file.close()


def load_shared(descriptor: int, size: int) -> Any:
    """The object in the file of a `SharedObject` of the parent's; what is written to it stays in this process."""
    # Private: a process that wrote to shared examples would change everyone's.
    memory = mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return load(memory, size)


def dump(value: object, file: BinaryIO) -> int:
    """Write an object to an empty file: large tensors, and behind them the rest; the number tells where that begins."""
    pickled = io.BytesIO()
    _Pickler(pickled, file).dump(value)
    size = file.tell()
    file.write(pickled.getbuffer())
    file.flush()
    return size


def load(memory: Buffer, size: int) -> Any:
    """The object that `dump` wrote. Its large tensors are that memory: if it is read-only, they must not be changed.

    Security: unpickling runs code. Only for what this program's own parent or driver has written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return _Unpickler(io.BytesIO(memoryview(memory)[size:]), memory).load()


class _Pickler(pickle.Pickler):
    def __init__(self, pickled: io.BytesIO, file: BinaryIO) -> None:
        super().__init__(pickled, protocol=5)
        self._file = file
        # Two names of one tensor stay one. The tensors are kept, so that no other gets the identity of one.
        self._places: dict[int, tuple[_Place, torch.Tensor]] = {}

    def persistent_id(self, value: object) -> _Place | None:
        # Not a subclass: parameters have more to them than values.
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
