"""Write the seed corpus, whole sessions and single messages as the harnesses read them: `python -m fuzz.corpus`."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from fuzz.harnesses import HARNESSES
from fuzz.recorded import ALICE, KINDS, Recorded, recorded
from secagg import encode

CORPUS = Path(__file__).parent / "corpus"


def _raw(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def _seeds(name: str, kind: int, session: Recorded) -> Iterator[bytes]:
    up = [encode(message, session.params) for message in session.client_messages]
    down = [encode(of_type[ALICE], session.params) for of_type in session.told.values()]
    if name == "codec":
        for message in (*up[:: session.params.num_clients], *down):
            yield bytes([kind, 0]) + message
        for at in range(12):
            yield bytes([kind, 1, 0, 3 * at, 0, at, at, at, at])
    elif name == "client":
        # Start, the messages, and the input in between: one seed for the whole session, and one for each phase.
        first, second, *rest = down
        steps = [b"\x00", b"\x00" + _raw(first), b"\x00" + _raw(second), b"\x00", *(b"\x00" + _raw(m) for m in rest)]
        yield bytes([kind, 0]) + b"".join(steps)
        for phase in range(len(session.blobs)):
            yield bytes([kind, phase]) + b"".join(bytes([2, 0, 7 * at, 0, at, at, at, at]) for at in range(8))
    elif name == "server":
        yield bytes([kind, 0]) + b"\x0e\x00\x0f\x00" * 5
        for phase in range(6):
            changes = b"".join(bytes([2, at, 0, 5 * at, 0, at, at, at, at]) for at in range(5))
            yield bytes([kind, phase]) + changes + b"\x0e\x00\x0f\x00" * 5
    else:
        for number, blob in enumerate(session.blobs):
            if len(blob) < 3000:
                yield bytes([kind, 0]) + blob
            yield bytes([kind, 2, 0, number, 0, 40, 1, 1, number])
            yield bytes([kind, 3, 0, number, 1, 40, 2, 0])


def write(folder: Path = CORPUS) -> int:
    """Write the corpus; return the number of bytes."""
    size = 0
    for name in HARNESSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for kind in range(len(KINDS)):
            for seed in _seeds(name, kind, recorded(kind)):
                (folder / name / hashlib.sha256(seed).hexdigest()[:12]).write_bytes(seed)
                size += len(seed)
    return size


if __name__ == "__main__":
    write()
