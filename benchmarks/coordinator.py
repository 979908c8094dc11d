"""Measure a server's coordinator at up to 100,000 clients: seconds and memory by round, for docs/scaling.md.

`python -m benchmarks.coordinator --clients 1000 10000 100000` runs one session of each size on the sparse graph, with
vectors of 1,000 values, and writes benchmarks/results/coordinator.json.

The coordinator is what `secagg serve` runs below its sockets: `transport.SessionHost` with its journal on the disk. It
takes the clients' frames as bytes and gives the bytes for them.  Each size has a process of its own.

**The clients are a stub** in another process: one program makes the messages of all of them.  Their sizes and forms are
real.  5% vanish after ShareKeys.  What the server checks or computes with is real: all seeds and their shares, the
commitments, the vanished clients' mask keys, and the masks that do not cancel, so that the sum can be compared with the
inputs' sum.  Stubs are the other public keys (random bytes), the encrypted shares (filler with sender and receiver: it
shows that they are handed on to the right client), the keys of pairwise masks (drawn, not agreed on), and the masks
between two survivors (left out, since they cancel).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import secagg
from benchmarks.blocks import new_document, write_results
from secagg import GraphKind, Parameters, Round
from secagg.algebra import ring, shamir
from secagg.graph import build_graph
from secagg.masking import Mask, accumulate, mask_secret_key, self_mask
from secagg.messages import AdvertiseKeys, ClientMessage, MaskedInput, ShareKeys, UnmaskingShares
from secagg.primitives.prg import KEY_BYTES, KeystreamReader
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS, SEED_BYTES, seed_commitment, uniform_field_elements
from transport import Deadlines, Journal, SessionHost
from transport.durable import frames as link

LENGTH = 1_000
DROPOUT = CORRUPT = 0.05
_NONCE = b"coordinator"
_GRAPH_KEY = b"\x01" * KEY_BYTES
# Frames that one commit makes durable, as a busy server gathers them.
_BATCH = 500
_ROUNDS = (Round.ADVERTISE_KEYS, Round.SHARE_KEYS, Round.MASKED_INPUT_COLLECTION, Round.UNMASKING)

Frames = list[tuple[int, bytes]]


def parameters(clients: int) -> Parameters:
    """Return the parameters of a session of this many clients."""
    return secagg.plan(
        num_clients=clients,
        vector_length=LENGTH,
        value_bits=16,
        dropout=DROPOUT,
        corrupt=CORRUPT,
        graph=GraphKind.SPARSE,
    ).parameters


class StubClients:
    """The messages of all clients of a session, in blocks."""

    def __init__(self, clients: int) -> None:
        self.params = parameters(clients)
        self.clients = clients
        self.session_id = secagg.Server(self.params, nonce=_NONCE).session_id
        self.graph = build_graph(self.params, clients, KeystreamReader(_GRAPH_KEY))
        self.rng = np.random.default_rng(clients)
        self.vanished = np.zeros(clients, dtype=bool)
        self.vanished[self.rng.choice(clients, int(DROPOUT * clients), replace=False)] = True
        # Of each client, the seed that will be recovered: a survivor's of its self mask, else of its mask key.
        self.seeds = self.rng.bytes(clients * SEED_BYTES)
        self.expected = ring.zeros(LENGTH, self.params.ring_bits)
        self.pairs = self._pairwise_keys()

    def seed(self, node: int) -> bytes:
        return self.seeds[node * SEED_BYTES : (node + 1) * SEED_BYTES]

    def _pairwise_keys(self) -> dict[int, bytes]:
        """Return each survivor's keys of its masks with the vanished clients around it, in their order."""
        counts = self.graph.count(self.vanished)
        drawn, at, keys = self.rng.bytes(int(counts.sum()) * KEY_BYTES), 0, {}
        for node in np.flatnonzero(~self.vanished).tolist():
            size = int(counts[node]) * KEY_BYTES
            keys[node], at = drawn[at : at + size], at + size
        return keys

    def messages(self, round_: Round) -> Iterator[tuple[int, ClientMessage]]:
        """Yield the messages of a round, in a random order."""
        if round_ is Round.ADVERTISE_KEYS:
            yield from self._advertise_keys()
        elif round_ is Round.SHARE_KEYS:
            yield from self._share_keys()
        elif round_ is Round.MASKED_INPUT_COLLECTION:
            yield from self._masked_inputs()
        else:
            yield from self._unmasking_shares()

    def _order(self, nodes: npt.NDArray[np.intp]) -> list[int]:
        order: list[int] = self.rng.permutation(nodes).tolist()
        return order

    def _advertise_keys(self) -> Iterator[tuple[int, AdvertiseKeys]]:
        for node in self._order(np.arange(self.clients)):
            # The highest bit of a key on Curve25519 is 0.
            channel_key, mask_key = (self.rng.bytes(31) + bytes([place]) for place in (1, 2))
            if self.vanished[node]:
                mask_key = mask_secret_key(self.seed(node), self.session_id, node).public_key()
            yield node, AdvertiseKeys(self.session_id, channel_key, mask_key, b"", b"")

    def _share_keys(self) -> Iterator[tuple[int, ShareKeys]]:
        degree = self.graph.neighborhood_size - 1
        for node in self._order(np.arange(self.clients)):
            shares = np.zeros((degree, ENCRYPTED_SHARES_BYTES), dtype=np.uint8)
            neighborhood = self.graph.neighborhood(node)
            shares[:, :8] = _labels(np.full(degree, node), neighborhood[neighborhood != node])
            commitment = seed_commitment(self.seed(node), self.session_id, node)
            yield node, ShareKeys(self.session_id, commitment, shares.tobytes())

    def _masked_inputs(self) -> Iterator[tuple[int, MaskedInput]]:
        bits = self.params.ring_bits
        for node in self._order(np.flatnonzero(~self.vanished)):
            vector = self.rng.integers(0, 1 << 16, LENGTH).astype(ring.word_dtype(bits))
            self.expected += vector
            neighborhood = self.graph.neighborhood(node)
            peers = neighborhood[self.vanished[neighborhood]].tolist()
            masks = [self_mask(self.seed(node), self.session_id, node)]
            masks += [
                Mask(self.pairs[node][i * KEY_BYTES : (i + 1) * KEY_BYTES], subtract=node > peer)
                for i, peer in enumerate(peers)
            ]
            accumulate(vector, masks)
            ring.reduce_in_place(vector, bits)
            yield node, MaskedInput(self.session_id, vector)

    def _unmasking_shares(self) -> Iterator[tuple[int, UnmaskingShares]]:
        shares = self._shares()
        for node in self._order(np.flatnonzero(~self.vanished)):
            neighborhood, places = self.graph.neighborhood(node), self.graph.places_of(node)
            held = neighborhood != node
            mine = shares[neighborhood[held], places[held]]
            yield node, UnmaskingShares(self.session_id, tuple(held.tolist()), mine, self.pairs[node])

    def _shares(self) -> npt.NDArray[np.uint16]:
        """Return the shares of each client's seed, by the place of the holder: shape (clients, places, LIMBS)."""
        places, threshold = self.graph.neighborhood_size, self.params.threshold
        octets = np.frombuffer(self.seeds, dtype=np.uint8).reshape(-1, SEED_BYTES)
        bits = np.zeros((self.clients, LIMBS * 15), dtype=np.uint16)
        bits[:, : 8 * SEED_BYTES] = np.unpackbits(octets[:, ::-1], axis=1, bitorder="little")
        limbs = (bits.reshape(self.clients, LIMBS, 15) << np.arange(15, dtype=np.uint16)).sum(axis=2, dtype=np.uint16)
        shares = np.empty((self.clients, places, LIMBS), dtype=np.uint16)
        entropy, block = KeystreamReader(b"\x02" * KEY_BYTES), 1_000
        for start in range(0, self.clients, block):
            part = limbs[start : start + block].reshape(-1)
            coefficients = uniform_field_elements((threshold - 1) * part.size, entropy).reshape(-1, part.size)
            shared = shamir.share(part, coefficients, places).reshape(places, -1, LIMBS)
            shares[start : start + block] = shared.transpose(1, 0, 2)
        return shares


def _labels(senders: npt.NDArray[np.intp], receivers: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    return np.stack((senders, receivers), axis=1).astype(">u4").view(np.uint8).reshape(-1, 8)


def play(clients: int, pipe: Connection) -> None:
    """Send the clients' frames for each round that is asked for, then check the sum."""
    stub = StubClients(clients)
    pipe.send(stub.session_id)
    for sequence in range(len(_ROUNDS)):
        round_ = pipe.recv()
        block: Frames = []
        for client_id, message in stub.messages(round_):
            body = secagg.encode(message, stub.params)
            block.append((client_id, b"".join(map(bytes, link.encode(link.Message(sequence, body))))))
            if len(block) == _BATCH:
                pipe.send(block)
                block = []
        if block:
            pipe.send(block)
        pipe.send(None)
    total, included = pipe.recv()
    ring.reduce_in_place(stub.expected, stub.params.ring_bits)
    is_exact = total == stub.expected.astype(np.uint64).tobytes()
    pipe.send(is_exact and list(included) == np.flatnonzero(~stub.vanished).tolist())


@dataclass
class Clock:
    """Seconds and CPU seconds of what is measured, without the waits for the stub."""

    seconds: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - started
        self.cpu += time.process_time() - cpu


def measure(clients: int, with_journal: bool = True) -> dict[str, Any]:
    """Run one session in this process, and return its figures."""
    baseline = _resident()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    stub = multiprocessing.get_context("spawn").Process(target=play, args=(clients, theirs), daemon=True)
    stub.start()
    theirs.close()
    assert ours.recv()
    params, rounds = parameters(clients), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        with closing(Journal(path)) as journal:
            host = SessionHost(
                params,
                deadlines=Deadlines(),
                now=0.0,
                nonce=_NONCE,
                journal=journal if with_journal else None,
                entropy=KeystreamReader(_GRAPH_KEY),
            )
            greeting = Clock()
            with greeting.running():
                hello = b"".join(link.encode(link.Hello()))
                for client_id in range(clients):
                    host.connected(client_id, 0.0)
                    host.frame_received(client_id, hello, 0.0)
                    if client_id % _BATCH == _BATCH - 1:
                        host.commit(0.0)
                host.commit(0.0)
            rounds.append(_figures("connections", greeting, Clock(), 0))
            for round_ in _ROUNDS:
                assert host.round is round_
                rounds.append(_play_round(host, ours, round_))
            masks = Clock()
            with masks.running():
                assert host.job is not None
                host.finish(host.job.run(), 0.0)
                host.commit(0.0)
            rounds.append(_figures("masks", masks, Clock(), 0))
            outcome = host.outcome
            assert isinstance(outcome, secagg.Completed)
            ours.send((outcome.sum.astype(np.uint64).tobytes(), outcome.included))
            assert ours.recv(), "the sum is not exact"
            journal_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
    stub.join()
    return {
        "clients": clients,
        "degree": params.degree,
        "threshold": params.threshold,
        "ring_bits": params.ring_bits,
        "length": LENGTH,
        "baseline_bytes": baseline,
        "peak_bytes": _peak(),
        "journal_bytes": journal_bytes if with_journal else 0,
        "rounds": rounds,
    }


def _play_round(host: SessionHost, pipe: Connection, round_: Round) -> dict[str, Any]:
    """Take the frames of a round, commit after each batch, and close the round when its deadline has come."""
    taking, closing_, sent = Clock(), Clock(), 0
    pipe.send(round_)
    while (block := pipe.recv()) is not None:
        # The last message of a round that nobody is missing from closes it.
        clock = taking if host.progress.pending > len(block) else closing_
        with clock.running():
            for client_id, frame in block:
                host.frame_received(client_id, frame, 0.0)
            outgoing = host.commit(0.0)
        sent += sum(len(part) for out in outgoing for part in out.parts)
        if host.round is not round_:
            _check(outgoing, round_)
        del outgoing, block
    if host.round is round_ and host.job is None:
        # Some have vanished: the deadline closes the round.
        with closing_.running():
            assert host.deadline is not None
            host.tick(host.deadline)
            outgoing = host.commit(0.0)
        sent += sum(len(part) for out in outgoing for part in out.parts)
        del outgoing
    return _figures(round_.value, taking, closing_, sent)


def _check(outgoing: list[Any], round_: Round) -> None:
    """Check that one client got the shares that were made for it."""
    if round_ is not Round.SHARE_KEYS:
        return
    out = next(out for out in outgoing if out.client_id == 5 and len(b"".join(out.parts)) > 1_000)
    frame = link.decode_server_frame(b"".join(out.parts))
    assert isinstance(frame, link.Message)
    shares = np.frombuffer(bytes(frame.body)[-ENCRYPTED_SHARES_BYTES * 4 :], dtype=np.uint8)  # type: ignore[arg-type]
    receivers = shares.reshape(4, ENCRYPTED_SHARES_BYTES)[:, 4:8].copy().view(">u4")
    assert receivers.ravel().tolist() == [5] * 4


def _figures(name: str, taking: Clock, closing_: Clock, sent: int) -> dict[str, Any]:
    return {
        "name": name,
        "seconds": taking.seconds,
        "cpu_seconds": taking.cpu,
        "closing_seconds": closing_.seconds,
        "closing_cpu_seconds": closing_.cpu,
        "bytes_down": sent,
        "resident_bytes": _resident(),
        "peak_bytes": _peak(),
    }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def coordination_seconds(result: dict[str, Any]) -> float:
    """Return the CPU seconds of a session without decoding and adding masked inputs and removing masks.

    These grow with the vectors, and fronts and the recovery's processes can do them.
    """
    inputs, seconds = Round.MASKED_INPUT_COLLECTION.value, 0.0
    for round_ in result["rounds"]:
        seconds += round_["closing_cpu_seconds"]
        if round_["name"] not in (inputs, "masks"):
            seconds += round_["cpu_seconds"]
    return seconds


def table(document: dict[str, Any]) -> str:
    """Return the figures as a table for docs/scaling.md."""
    names = [round_["name"] for round_ in document["results"][0]["rounds"]]
    head = ["clients", "degree", *names, "all", "longest closing", "peak memory", "journal"]
    lines = [f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}"]
    for result in document["results"]:
        cpu = [round_["cpu_seconds"] + round_["closing_cpu_seconds"] for round_ in result["rounds"]]
        closing_ = max(round_["closing_cpu_seconds"] for round_ in result["rounds"])
        cells = [f"{result['clients']:,}", str(result["degree"])]
        cells += [f"{seconds:.2f} s" for seconds in (*cpu, sum(cpu), closing_)]
        cells += [f"{result['peak_bytes'] / 1e6:,.0f} MB", f"{result['journal_bytes'] / 1e6:,.0f} MB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure_into(clients: int, with_journal: bool, pipe: Connection) -> None:
    pipe.send(measure(clients, with_journal))


def main() -> None:
    """Measure the given sizes, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--without-journal", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print the figures, and write no results")
    options = parser.parse_args()
    results = []
    for clients in options.clients:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_measure_into, args=(clients, not options.without_journal, theirs))
        process.start()
        theirs.close()
        result = ours.recv()
        process.join()
        results.append(result)
        print(f"{clients:,} clients, degree {result['degree']}: peak {result['peak_bytes'] / 1e6:,.0f} MB", flush=True)
        for round_ in result["rounds"]:
            print(
                f"  {round_['name']:24} {round_['seconds']:8.2f} s ({round_['cpu_seconds']:.2f} CPU), closing "
                f"{round_['closing_seconds']:.2f} s ({round_['closing_cpu_seconds']:.2f} CPU), down "
                f"{round_['bytes_down'] / 1e6:.1f} MB, resident {round_['resident_bytes'] / 1e6:,.0f} MB, peak "
                f"{round_['peak_bytes'] / 1e6:,.0f} MB",
                flush=True,
            )
    if not options.dry:
        write_results("coordinator", new_document(results))


if __name__ == "__main__":
    main()
