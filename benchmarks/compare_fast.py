"""Compare the machine code of the extra ``fast`` with numpy and pyca's cipher: `make bench-fast`.

It takes a quarter of an hour on idle cores, most of it for the paper's figure 8 with both. The table goes into
docs/scaling.md.

With --clients 500 or 1000 it measures figure 8 of that size only, and keeps the other results. With --quick it takes a
minute with a smaller cohort, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import published
from benchmarks.blocks import new_document, read_results, write_results
from benchmarks.interleave import by_turns
from benchmarks.lockstep import run_cohort
from secagg import masking
from secagg.algebra import packing
from secagg.masking import Mask, accumulate
from secagg.primitives.prg import CHUNK_BYTES

_MASKS, _BITS, _ELEMENTS = 64, 26, 1_000_000
_ROUNDS = 15
_COHORTS = (500, 1000)


@contextmanager
def without_machine_code() -> Iterator[None]:
    """Take the path of an installation without llvmlite."""
    with ExitStack() as patches:
        for module in (masking, packing):
            patches.enter_context(patch.object(module, "_machine_code", lambda _: None))
        yield


def _pieces() -> Iterator[dict[str, Any]]:
    """Time each piece with and without machine code, in turn; masks also beside pyca's cipher alone."""
    for length in (100_000, _ELEMENTS):
        vector = np.zeros(length, dtype="<u4")
        masks = [Mask(os.urandom(16), subtract=bool(index % 2)) for index in range(_MASKS)]
        ciphers = [AESGCM(mask.key) for mask in masks]
        yield _piece(
            f"add {_MASKS} masks of {length:,} values of 32 bits",
            _MASKS * vector.nbytes,
            partial(accumulate, vector, masks),
            partial(_expand, ciphers, vector.nbytes),
        )
    vector = np.random.default_rng(0).integers(0, 1 << _BITS, _ELEMENTS, dtype=np.uint32)
    packed = packing.pack(vector, _BITS)
    yield _piece(f"pack {_ELEMENTS:,} values of {_BITS} bits", vector.nbytes, lambda: packing.pack(vector, _BITS))
    yield _piece(
        f"unpack {_ELEMENTS:,} values of {_BITS} bits",
        vector.nbytes,
        lambda: packing.unpack(packed, _ELEMENTS, _BITS),
    )


def _expand(ciphers: list[AESGCM], size: int) -> None:
    zeros, buffer = memoryview(bytes(CHUNK_BYTES)), memoryview(bytearray(CHUNK_BYTES + 16))
    for cipher in ciphers:
        for chunk, start in enumerate(range(0, size, CHUNK_BYTES)):
            part = min(CHUNK_BYTES, size - start)
            cipher.encrypt_into(chunk.to_bytes(12, "big"), zeros[:part], None, buffer[: part + 16])


def _piece(
    name: str, num_bytes: int, work: Callable[[], object], cipher: Callable[[], object] | None = None
) -> dict[str, Any]:
    def plain() -> None:
        with without_machine_code():
            work()

    works = [work, plain] if cipher is None else [work, plain, cipher]
    taken = by_turns(works, rounds=_ROUNDS)
    rates = [round(num_bytes / median(seconds) / 1e9, 3) for seconds in taken]
    return {
        "name": name,
        "gigabytes_a_second": dict(zip(("fast", "numpy", "cipher"), rates, strict=False)),
        "speed": round(median(slow / fast for fast, slow in zip(taken[0], taken[1], strict=True)), 3),
    }


def _figure8(num_clients: int) -> Iterator[dict[str, Any]]:
    """Run the paper's figure 8 with and without machine code."""
    fast = run_cohort(num_clients)
    with without_machine_code():
        plain = run_cohort(num_clients)
    rows = {(row["role"], row["dropout"]): row["total"] for row in published.figure8() if row["clients"] == num_clients}
    for role, dropout in (("client", 0.0), ("server", 0.3)):
        seconds = [
            sum((times.client if role == "client" else times.servers[dropout]).values()) for times in (fast, plain)
        ]
        milliseconds = rows.get((role, dropout))
        yield {
            "role": role,
            "clients": num_clients,
            "dropout": dropout,
            "seconds": {"fast": round(seconds[0], 4), "numpy": round(seconds[1], 4)},
            "over_published": None
            if milliseconds is None
            else [round(milliseconds / 1000 / value, 2) for value in seconds],
        }


def main() -> None:
    """Measure the pieces, then whole rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller cohort; nothing is written")
    parser.add_argument("--clients", type=int, choices=_COHORTS, help="measure figure 8 of this size only")
    options = parser.parse_args()
    if masking._machine_code(32) is None or packing._machine_code(_BITS) is None:
        raise SystemExit("there is no machine code here: pip install '.[fast]', on a processor with AES instructions")
    cohorts = (100,) if options.quick else _COHORTS if options.clients is None else (options.clients,)
    rows = [] if options.clients else list(_pieces())
    rows += [row for num_clients in cohorts for row in _figure8(num_clients)]
    if options.clients:
        known = read_results("fast")["results"]
        rows += [row for row in known if row.get("clients") != options.clients]
        rows.sort(key=lambda row: row.get("clients", 0))
    document = new_document(rows)
    if not options.quick:
        write_results("fast", document)
    print(table(document))


def table(document: dict[str, Any]) -> str:
    """Return two Markdown tables: the pieces, and the paper's figure 8."""
    pieces = [row for row in document["results"] if "name" in row]
    rounds = [row for row in document["results"] if "role" in row]
    lines = [
        "| piece, one core | `fast`, GB/s | without | pyca's cipher alone | `fast` over without |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for row in pieces:
        rates = row["gigabytes_a_second"]
        cipher = f"{rates['cipher']:.1f}" if "cipher" in rates else ""
        lines.append(f"| {row['name']} | {rates['fast']:.1f} | {rates['numpy']:.1f} | {cipher} | {row['speed']:.1f} |")
    lines += [
        "",
        "| the paper's figure 8, one core | `fast` | without | paper over `fast` | paper over without |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for row in rounds:
        name = f"{row['role']}, {row['clients']} clients" + (f", {row['dropout']:.0%} vanish" if row["dropout"] else "")
        seconds = " | ".join(f"{row['seconds'][way]:.3g} s" for way in ("fast", "numpy"))
        ratios = "|" if row["over_published"] is None else " | ".join(f"{ratio:.1f}" for ratio in row["over_published"])
        lines.append(f"| {name} | {seconds} | {ratios} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
