"""Start child processes of this program, and exchange pickled objects with them.

A child finds modules where this process does, and nowhere else. By itself Python looks first in the working directory
when it runs ``-c``: a folder ``transport`` there would run in a process that receives secrets. Children ignore Ctrl-C,
which reaches the whole process group: the parent ends them. A child whose parent is gone ends by itself.

Two libraries were considered. `multiprocessing` runs the host's main module again, which needs a ``__main__`` guard
there. loky ends all workers when one dies, while here each caller decides what happens to the work of a dead child.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from transport.errors import TransportError

_CHILD = "from transport.processes import _run; _run()"
_LENGTH = struct.Struct(">Q")
# Smaller buffers are copied into the pickle.
_LARGE = 1 << 16

Buffer: TypeAlias = bytes | memoryview


class ChildDiedError(TransportError):
    """Raised when a child ends before it answers; the text says how it ended."""


class ChildProcess:
    """A child process that runs one function of this program.

    One thread at a time may send and one may receive; any thread may call `kill`.

    Security: objects travel through pipes that no other process can read. They are pickled, so only this program may
    send them.

    Args:
        entry: ``package.module:function``. The child calls it with a `Parent` and ``arguments``, and ends when it
            returns. What it prints goes to stderr, since stdout carries its answers.
        arguments: strings for the function.
        environment: changes of environment variables.
        inherited: descriptors that stay open in the child.
        quiet: whether to discard the child's stderr.

    Raises:
        OSError: the system cannot start a process.
    """

    def __init__(
        self,
        entry: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        inherited: tuple[int, ...] = (),
        quiet: bool = False,
    ) -> None:
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        with _sigint_blocked():
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own code
                [sys.executable, "-P", "-c", _CHILD, entry, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if quiet else None,
                pass_fds=inherited,
                env={**os.environ, **(environment or {}), "PYTHONPATH": path},
            )

    @property
    def process_id(self) -> int:
        """Return the child's process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Return whether the child has not ended."""
        return self._process.poll() is None

    def send(self, value: object) -> None:
        """Send an object.

        Raises:
            ChildDiedError: the child has ended. Close this object; it cannot be used again.
        """
        self.send_pickled(pickled(value))

    def send_pickled(self, parts: list[Buffer]) -> None:
        """Send an object that `pickled` has turned into bytes. Errors as for `send`."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            _write(self._process.stdin.fileno(), parts)
        except (OSError, ValueError) as error:
            raise ChildDiedError(self._how_it_ended()) from error

    def receive(self) -> Any:
        """Wait for the next object of the child. Errors as for `send`."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            return _read(self._process.stdout.fileno())
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise ChildDiedError(self._how_it_ended()) from error

    def kill(self) -> None:
        """End the child at once. A thread that waits for it gets a ChildDiedError."""
        self._process.kill()

    def close(self, patience: float = 0.2) -> None:
        """End the child: close its requests, and kill it after ``patience`` seconds. May be called again."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        if code >= 0:
            return f"exit code {code}"
        # A system that runs out of memory sends SIGKILL.
        return f"signal {-code}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


class Parent:
    """The connection of a child to its parent: iterate over it for requests, until the parent closes it or is gone."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                request = _read(self._requests)
            except (EOFError, ConnectionError):
                return
            yield request

    def send(self, value: object) -> None:
        """Send an object; end this process if the parent is gone."""
        try:
            _write(self._answers, pickled(value))
        except BrokenPipeError:
            # Skip the flush at exit, which would fail again.
            os._exit(0)


def _run() -> None:
    """Run in the child: call its entry function."""
    entry, *arguments = sys.argv[1:]
    del sys.argv[1:]
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # The code of users may print.
    os.dup2(2, 1)
    module, name = entry.split(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    function(Parent(requests, answers), *arguments)


def pickled(value: object) -> list[Buffer]:
    """Return an object as bytes for `ChildProcess.send_pickled`: its pickle, then its large buffers.

    Buffers, such as those of numpy arrays, are not copied: do not change them before they are sent.
    """
    buffers: list[Buffer] = []

    def put(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= _LARGE:
            buffers.append(raw)
        return raw.nbytes < _LARGE

    return [pickle.dumps(value, protocol=5, buffer_callback=put), *buffers]


def _write(descriptor: int, parts: list[Buffer]) -> None:
    sizes = b"".join(_LENGTH.pack(size) for size in (len(parts), *map(len, parts)))
    for part in (sizes, *parts):
        view = memoryview(part)
        while view:
            view = view[os.write(descriptor, view) :]


def _read(descriptor: int) -> Any:
    # Unbuffered: a thread that waits here must hold no buffer's lock when the interpreter ends.
    pipe = io.FileIO(descriptor, closefd=False)
    (count,) = _LENGTH.unpack(_read_exactly(pipe, _LENGTH.size))
    sizes = _LENGTH.iter_unpack(_read_exactly(pipe, count * _LENGTH.size))
    data, *buffers = [_read_exactly(pipe, size) for (size,) in sizes]
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - from our own parent or child


def _read_exactly(pipe: io.FileIO, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = pipe.readinto(view)
        if not count:
            raise EOFError("the pipe was closed")
        view = view[count:]
    return data


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT in children that start in this block: they inherit it, and a handler would be late."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
