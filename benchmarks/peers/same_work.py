"""Do the work of the peers with secagg, on one thread."""

import secrets
import time
from dataclasses import dataclass

import numpy as np

from fl.aggregation.encoding import ClientUpdate, UpdateEncoding
from fl.aggregation.scales import Scales
from secagg import Completed, Parameters, Round, plan
from secagg.algebra import ring
from secagg.masking import Mask, accumulate, mask_secret_key, pairwise_mask, self_mask
from transport import FaultSchedule, run_session
from transport.faults import Direction, Fault

# Flower's defaults: the clipping bound of its clients' values, and its quantization range 2^22.
FLOWER_CLIP = 8.0
FLOWER_BITS = 22


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One round: its seconds, whether the sum is exact, and the mean's error against float arithmetic."""

    seconds: float
    exact: bool
    max_abs_error: float


def run_round(num_clients: int, num_vanish: int, length: int, threshold: int) -> RoundResult:
    """Run a round like Flower's: complete graph, float32 vectors, quantized by the clients; time it from keys to mean.

    The first ``num_vanish`` clients drop out after they have shared keys, before their masked input.
    """
    vectors = [np.random.default_rng(i).uniform(-1, 1, length).astype(np.float32) for i in range(num_clients)]
    encoding = UpdateEncoding(
        sizes=(length,), num_clients=num_clients, value_bits=FLOWER_BITS, scales=Scales((FLOWER_CLIP,), 1)
    )

    def encoded(client_id: int) -> np.ndarray:
        update = ClientUpdate(vectors[client_id], num_examples=1, metrics=((0, 1),))
        return encoding.encode(update, np.random.default_rng((1, client_id)))

    params = plan(
        num_clients=num_clients,
        vector_length=encoding.vector_length,
        value_bits=FLOWER_BITS,
        dropout=num_vanish / num_clients,
        threshold=threshold,
    ).parameters
    faults = {(i, Round.MASKED_INPUT_COLLECTION, Direction.UP): Fault.VANISH for i in range(num_vanish)}
    started = time.perf_counter()
    outcome = run_session(params, encoded, faults=FaultSchedule(faults), workers=1).outcome
    assert isinstance(outcome, Completed), outcome
    mean = encoding.decode(outcome.sum, len(outcome.included)).mean_delta
    seconds = time.perf_counter() - started

    survivors = range(num_vanish, num_clients)
    expected = np.sum([encoded(i) for i in survivors], axis=0)
    exact = outcome.included == tuple(survivors) and np.array_equal(outcome.sum.astype(np.int64), expected)
    error = np.abs(mean - np.mean(vectors[num_vanish:], axis=0)).max()
    return RoundResult(seconds, bool(exact), float(error))


@dataclass(frozen=True, slots=True)
class MaskingResult:
    """All clients' seconds for agreeing on keys and for masking, and whether the masks cancel in the sum."""

    agreement_seconds: float
    masking_seconds: float
    exact: bool


def run_masking(num_clients: int, length: int, value_bits: int) -> MaskingResult:
    """Do the clients' work up to their masked inputs: key pairs, agreement, masks.

    The self-mask, which only a protocol that tolerates dropouts needs, is drawn and added like pairwise masks.
    """
    params = Parameters(
        num_clients=num_clients,
        threshold=num_clients,
        degree=num_clients - 1,
        vector_length=length,
        value_bits=value_bits,
        ring_bits=32,
    )
    session_id = secrets.token_bytes(32)
    rng = np.random.default_rng(0)
    values = [rng.integers(1 << value_bits, size=length) for _ in range(num_clients)]

    started = time.perf_counter()
    masks = _agree(session_id, num_clients)
    agreement_seconds = time.perf_counter() - started

    masking_seconds = 0.0
    total = ring.zeros(length, params.ring_bits)
    own_masks = []
    for client_id in range(num_clients):
        started = time.perf_counter()
        own_masks.append(self_mask(secrets.token_bytes(32), session_id, client_id))
        masked = values[client_id].astype(ring.word_dtype(params.ring_bits))
        accumulate(masked, (own_masks[-1], *masks[client_id]))
        ring.reduce_in_place(masked, params.ring_bits)
        masking_seconds += time.perf_counter() - started
        total += masked
    accumulate(total, [Mask(mask.key, subtract=True) for mask in own_masks])
    expected = np.sum(values, axis=0).astype(np.uint64) & np.uint64(params.modulus - 1)
    return MaskingResult(agreement_seconds, masking_seconds, bool(np.array_equal(total.astype(np.uint64), expected)))


def _agree(session_id: bytes, num_clients: int) -> list[list[Mask]]:
    """Return each client's pairwise masks, each agreed on at both ends."""
    keys = [mask_secret_key(secrets.token_bytes(32), session_id, i) for i in range(num_clients)]
    public_keys = [key.public_key() for key in keys]
    return [
        [
            pairwise_mask(keys[own], public_keys[peer], session_id, own, peer)
            for peer in range(num_clients)
            if peer != own
        ]
        for own in range(num_clients)
    ]
