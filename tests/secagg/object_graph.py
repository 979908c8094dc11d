"""Search for secrets: walk everything that an object keeps alive, and look into every buffer."""

import gc
from collections.abc import Iterable, Iterator, Mapping
from types import (
    BuiltinFunctionType,
    FrameType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
    TracebackType,
)

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Skip code, which holds no session's data, and tracebacks, which hold the callers' frames too: see `frames_of`.
_NOT_FOLLOWED = (
    type,
    ModuleType,
    BuiltinFunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    property,
    TracebackType,
)

_BUFFERS = (bytes, bytearray, memoryview, np.ndarray)


def reachable(*roots: object) -> Iterator[object]:
    """Return every object that the roots keep alive, themselves included, except code and tracebacks."""
    seen: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, _NOT_FOLLOWED):
            continue
        seen[id(found)] = found  # Keep the object alive, so that no id is used twice.
        yield found
        match found:
            case FunctionType():
                waiting += [cell.cell_contents for cell in found.__closure__ or ()]
                waiting += [found.__defaults__, found.__kwdefaults__, found.__dict__]
            case FrameType():
                waiting += found.f_locals.values()
            case np.ndarray():
                waiting.append(found.base)
                waiting += found.reshape(-1).tolist() if found.dtype.hasobject else []
            case memoryview():
                waiting.append(found.obj)
            case _:
                waiting += gc.get_referents(found)


def secrets_in(secrets: Mapping[str, bytes | Iterable[bytes]], *roots: object) -> set[str]:
    """Return the names of the secrets that the roots reach, in any buffer or in a list of ints.

    A secret may be given in several encodings.  Key objects of the cryptography library cannot be looked into;
    they are reported as such.
    """
    found = set()
    for thing in reachable(*roots):
        if isinstance(thing, X25519PrivateKey | Ed25519PrivateKey | AESGCM):
            found.add(f"a {type(thing).__name__} object")
        for buffer in _as_bytes(thing):
            found |= {name for name, secret in secrets.items() if any(part in buffer for part in _encodings(secret))}
    return found


def frames_of(error: BaseException, package: str) -> list[FrameType]:
    """Return the frames of ``package`` that an exception keeps alive, through its traceback and earlier exceptions."""
    frames = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None:
            continue
        traceback = current.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_globals.get("__name__", "").split(".")[0] == package:
                frames.append(traceback.tb_frame)
            traceback = traceback.tb_next
        waiting += [current.__cause__, current.__context__]
    return frames


def vector_encodings(vector: np.ndarray) -> list[bytes]:
    """Return an integer vector as it may lie in memory: in words of each size that holds it, in both byte orders."""
    largest = int(vector.max())
    sizes = [size for size in (1, 2, 4, 8) if largest < 1 << (8 * size)]
    return [vector.astype(f"{order}u{size}").tobytes() for size in sizes for order in "<>"]


def _encodings(secret: bytes | Iterable[bytes]) -> Iterable[bytes]:
    return (secret,) if isinstance(secret, bytes) else secret


def _as_bytes(thing: object) -> Iterator[bytes]:
    if isinstance(thing, _BUFFERS):
        yield thing.tobytes() if isinstance(thing, np.ndarray | memoryview) else bytes(thing)
    elif isinstance(thing, str):
        yield thing.encode("utf-8", "surrogatepass")
    elif isinstance(thing, list | tuple) and thing and all(type(item) is int for item in thing):
        # A vector or a key that was turned into Python ints.
        if all(0 <= item < 256 for item in thing):
            yield bytes(thing)
        if all(0 <= item < 2**64 for item in thing):
            yield np.array(thing, dtype="<u8").tobytes()
    elif type(thing) is int and thing.bit_length() > 64:
        size = (thing.bit_length() + 7) // 8
        yield abs(thing).to_bytes(size, "big")
        yield abs(thing).to_bytes(size, "little")
