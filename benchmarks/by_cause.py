"""Split the time of one client and of one server by cause: `make bench-causes`, two minutes on an idle core.

The machines are real, on one core, with the paper's figure 8 as their setting: 100,000 values in a ring of 24 bits, and
30% of the clients vanish before their masked input. Their peers are made up, down to the bytes that they send: shares
are real, masked inputs are random. A clock gives each moment to the innermost cause that runs, in seconds of the
processor; what no cause takes is Python and the rest. The whole is measured once more without the clock.

With --quick there are 100 clients, and nothing is written.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.blocks import new_document, write_results
from benchmarks.compare_fast import without_machine_code
from benchmarks.lockstep import LENGTH, RING_BITS, parameters
from secagg import (
    Client,
    ClientId,
    Completed,
    GraphKind,
    InputRequested,
    Parameters,
    Send,
    Server,
    UnmaskReady,
    codec,
    decode_client_message,
    decode_server_message,
    encode,
    masking,
    plan,
    sharing,
    unmask_job,
)
from secagg._client import states
from secagg._server import unmasking
from secagg.algebra import packing, ring
from secagg.events import ClientEvent
from secagg.masking import mask_secret_key
from secagg.messages import (
    AdvertiseKeys,
    MaskedInput,
    Message,
    PeerKeys,
    PeerShares,
    ServerMessage,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.primitives import aead, agreement, kdf, prg
from secagg.primitives.agreement import SecretKey
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS, SEED_BYTES, ShareChannel

_DROPOUT = 0.3
_ROUNDS = 5

X25519, HKDF, CIPHER, ADD, SHAMIR, SEALING, PACKING, CODEC, REST = CAUSES = (
    "key agreement (X25519)",
    "key derivation (HKDF)",
    "masks: cipher",
    "masks: adding",
    "Shamir: shares and reconstruction",
    "shares sealed and opened (AES-GCM)",
    "packing",
    "codec",
    "Python and the rest",
)
ONE_PASS = "masks: cipher and adding, in one pass"  # noqa: S105 - no password

_PLACES: tuple[tuple[object, str, str], ...] = (
    (SecretKey, "exchange", X25519),
    (SecretKey, "public_key", X25519),
    (agreement, "public_key", X25519),
    (kdf, "derive", HKDF),
    (prg.Keystream, "chunk_into", CIPHER),
    (states, "accumulate", ADD),
    (unmask_job, "accumulate", ADD),
    (sharing, "share_seeds", SHAMIR),
    (unmasking, "recover_secrets", SHAMIR),
    (aead, "seal", SEALING),
    (aead, "open_sealed", SEALING),
    (packing, "pack", PACKING),
    (packing, "unpack", PACKING),
    (packing, "padding_is_zero", PACKING),
    (codec, "encode_parts", CODEC),
    (codec, "_decode", CODEC),
)


class Clock:
    """Seconds of the processor by cause, each moment counted once: for the innermost cause that runs."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running = [REST]
        self._since = process_time()

    def note(self) -> None:
        """Give the time since the last note to the cause that runs."""
        now = process_time()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, cause: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, with its time given to a cause."""

        def run(*arguments: Any, **options: Any) -> Any:
            self.note()
            self._running.append(cause)
            try:
                return function(*arguments, **options)
            finally:
                self.note()
                self._running.pop()

        return run

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of all causes."""
        with ExitStack() as patches:
            for owner, name, cause in _PLACES:
                patches.enter_context(patch.object(owner, name, self.timed(cause, getattr(owner, name))))
            self._since = process_time()
            yield
            self.note()


@dataclass(frozen=True)
class Letters:
    """The bytes that a machine gets, in order: for a server each with its sender, and by round."""

    params: Parameters
    rounds: tuple[tuple[tuple[ClientId, bytes], ...], ...]


def _entropy() -> Callable[[int], bytes]:
    """Return a source whose bytes repeat with each machine, so that recorded messages fit it."""
    return prg.KeystreamReader(bytes(prg.KEY_BYTES))


def letters_of_client(params: Parameters) -> Letters:
    """Return what client 0 gets from a server in a session in which 30% vanish."""
    client = Client(params, 0, entropy=_entropy())
    own = _message(client.start())
    assert isinstance(own, AdvertiseKeys)
    num_peers = params.degree
    vanished = round(_DROPOUT * num_peers)
    channel_keys = [os.urandom(32) for _ in range(num_peers)]
    publics = [(agreement.public_key(key), agreement.public_key(os.urandom(32))) for key in channel_keys]
    ids = tuple(range(num_peers + 1))
    shares = bytes(2 * sharing.SHARE_BYTES)
    sealed = b"".join(
        ShareChannel.agree(SecretKey(key), own.channel_public_key, own.session_id, peer_id, 0).seal_shares(
            shares, own.session_id, peer_id, 0
        )
        for peer_id, key in zip(ids[1:], channel_keys, strict=True)
    )
    messages: list[ServerMessage] = [
        PeerKeys(
            own.session_id,
            ids,
            own.channel_public_key + b"".join(channel for channel, _ in publics),
            own.mask_public_key + b"".join(mask for _, mask in publics),
        ),
        PeerShares(own.session_id, (True,) * len(ids), sealed),
        SurvivorList(own.session_id, tuple(client_id < len(ids) - vanished for client_id in ids)),
    ]
    return Letters(params, tuple(((0, encode(message, params)),) for message in messages))


def run_client(letters: Letters) -> None:
    """Run client 0 through its session: bytes in, bytes out."""
    params = letters.params
    client = Client(params, 0, entropy=_entropy())
    vector = np.zeros(params.vector_length, dtype=np.uint64)
    codec.encode(_message(client.start()), params)
    for ((_, data),) in letters.rounds:
        events = client.receive(decode_server_message(data, params))
        if isinstance(events[0], InputRequested):
            events = client.submit_input(vector)
        codec.encode(_message(events), params)


def _message(events: tuple[ClientEvent, ...]) -> Message:
    (event,) = events
    assert isinstance(event, Send)
    return event.message


def letters_of_server(params: Parameters) -> Letters:
    """Return what all clients send to the server in a session in which the last 30% vanish."""
    server = Server(params, entropy=_entropy())
    session_id, ids = server.session_id, range(params.num_clients)
    seeds = [(os.urandom(SEED_BYTES), os.urandom(SEED_BYTES)) for _ in ids]
    left = ids[: params.num_clients - round(_DROPOUT * params.num_clients)]
    rounds = []

    def close(messages: dict[ClientId, Any]) -> dict[ClientId, Any]:
        rounds.append(tuple((client_id, encode(message, params)) for client_id, message in messages.items()))
        for client_id, message in messages.items():
            assert server.receive(client_id, message) == ()
        sent = [event for event in server.close_round() if isinstance(event, Send)]
        return {event.to: event.message for event in sent if isinstance(event.to, int)}

    keys = {
        i: AdvertiseKeys(
            session_id,
            agreement.public_key(os.urandom(32)),
            mask_secret_key(seeds[i][0], session_id, i).public_key(),
        )
        for i in ids
    }
    around = {client_id: message.client_ids for client_id, message in close(keys).items()}
    shares = {
        i: sharing.share_seeds(seeds[i], params.threshold, len(around[i]), prg.KeystreamReader(os.urandom(16)))
        for i in ids
    }
    sealed = os.urandom(ENCRYPTED_SHARES_BYTES * params.degree)
    commitments = {i: sharing.seed_commitment(seeds[i][1], session_id, i) for i in ids}
    close({i: ShareKeys(session_id, commitments[i], sealed) for i in ids})
    vector = np.random.default_rng(0).integers(params.modulus, size=params.vector_length, dtype=np.uint64)
    masked = MaskedInput(session_id, vector.astype(ring.word_dtype(params.ring_bits)))
    told = close(dict.fromkeys(left, masked))
    places = {owner: {holder: place for place, holder in enumerate(around[owner])} for owner in ids}
    answers = {}
    for holder, message in told.items():
        assert isinstance(message, SurvivorList)
        held = tuple(params.is_complete or owner != holder for owner in around[holder])
        rows = [
            shares[owner][places[owner][holder], int(survives)]
            for owner, survives, holds in zip(around[holder], message.survivors, held, strict=True)
            if holds
        ]
        vanished = message.survivors.count(False)
        keys_of_masks = os.urandom(prg.KEY_BYTES * vanished)
        answers[holder] = UnmaskingShares(session_id, held, np.array(rows).reshape(-1, LIMBS), keys_of_masks)
    rounds.append(tuple((holder, encode(message, params)) for holder, message in answers.items()))
    return Letters(params, tuple(rounds))


def run_server(letters: Letters) -> None:
    """Run a server through a session: bytes in, bytes out, and the recovery on one core."""
    params = letters.params
    server = Server(params, entropy=_entropy())
    for messages in letters.rounds:
        for client_id, data in messages:
            assert server.receive(client_id, decode_client_message(data, params)) == ()
        previous = None
        for event in server.close_round():
            if isinstance(event, Send) and event.message is not previous:
                previous = event.message
                codec.encode(previous, params)
            elif isinstance(event, UnmaskReady):
                (completed,) = server.finish(event.job.run())
                assert isinstance(completed, Completed)


def measure(work: Callable[[], None], rounds: int) -> dict[str, Any]:
    """Run work with the clock and without, in turn; return the medians."""
    wholes: list[float] = []
    split: list[dict[str, float]] = []
    for _ in range(rounds):
        started = process_time()
        work()
        wholes.append(process_time() - started)
        clock = Clock()
        with clock.running():
            work()
        split.append(clock.seconds)
    causes = {cause: median(seconds.get(cause, 0.0) for seconds in split) for cause in CAUSES}
    return {
        "seconds": median(wholes),
        "with_clock": median(sum(seconds.values()) for seconds in split),
        "causes": causes,
    }


def settings(num_clients: int) -> dict[str, Parameters]:
    """Return the parameters of both graphs: on the sparse one 5% of the clients may be corrupt."""
    complete = parameters(num_clients)
    sparse = plan(
        num_clients=num_clients,
        vector_length=LENGTH,
        value_bits=complete.value_bits,
        dropout=_DROPOUT,
        corrupt=0.05,
        graph=GraphKind.SPARSE,
    ).parameters
    return {"sparse": replace(sparse, ring_bits=RING_BITS), "complete": complete}


def main() -> None:
    """Measure both roles on both graphs, with machine code and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 clients; nothing is written")
    options = parser.parse_args()
    if masking._machine_code(32) is None:
        raise SystemExit("there is no machine code here: pip install '.[fast]', on a processor with AES instructions")
    rows = []
    for graph, params in settings(100 if options.quick else 1000).items():
        client, server = letters_of_client(params), letters_of_server(params)
        for role, work, rounds in (
            ("client", lambda letters=client: run_client(letters), _ROUNDS),
            ("server", lambda letters=server: run_server(letters), 2),
        ):
            for fast in (True, False):
                with nullcontext() if fast else without_machine_code():
                    measured = measure(work, rounds)
                row = {
                    "role": role,
                    "graph": graph,
                    "clients": params.num_clients,
                    "degree": params.degree,
                    "fast": fast,
                }
                rows.append({**row, **measured})
    document = new_document(rows)
    if not options.quick:
        write_results("causes", document)
    print(table(document))


def table(document: dict[str, Any]) -> str:
    """Return two Markdown tables, with machine code and without: milliseconds and shares by cause."""
    return "\n\n".join(_table(document, fast=fast) for fast in (True, False))


def _table(document: dict[str, Any], *, fast: bool) -> str:
    rows = [row for row in document["results"] if row["fast"] is fast]
    clients = rows[0]["clients"]
    titles = [f"{row['role']}, {row['graph']} (k = {row['degree']})" for row in rows]
    way = "with `fast`" if fast else "without"
    lines = [
        f"| {clients:,} clients, {way} | " + " | ".join(titles) + " |",
        "| :--- |" + " ---: |" * len(rows),
    ]
    for cause in CAUSES:
        name = ONE_PASS if fast and cause == ADD else cause
        cells = [row["causes"][cause] for row in rows]
        if fast and cause == CIPHER:
            continue
        shares = [seconds / row["with_clock"] for seconds, row in zip(cells, rows, strict=True)]
        lines.append(
            f"| {name} | "
            + " | ".join(f"{_shown(seconds)} ({share:.0%})" for seconds, share in zip(cells, shares, strict=True))
            + " |"
        )
    lines.append("| **all, with the clock** | " + " | ".join(_shown(row["with_clock"]) for row in rows) + " |")
    lines.append("| **all, without it** | " + " | ".join(_shown(row["seconds"]) for row in rows) + " |")
    return "\n".join(lines)


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


if __name__ == "__main__":
    main()
