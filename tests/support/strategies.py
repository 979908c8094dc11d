"""Hypothesis strategies: sessions with any numbers and any dropouts, and messages of every kind."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from secagg import Adversary, Parameters
from secagg.algebra import ring
from secagg.algebra.field import PRIME
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from secagg.params import MAX_CLIENT_ID, required_ring_bits
from secagg.sharing import ENCRYPTED_SHARES_BYTES, LIMBS
from tests.support.sessions import BEFORE_KEYS, NEVER

MAX_CLIENTS = 12

# Around the sizes at which packing, words and their groups change, and sizes between them.
vector_lengths = st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129]) | st.integers(1, 200)
client_ids = st.integers(0, MAX_CLIENT_ID)
session_ids = st.binary(min_size=32, max_size=32)


CURIOUS = Adversary.HONEST_BUT_CURIOUS
adversaries = st.sampled_from(Adversary)


def thresholds(adversary: Adversary, holders: int) -> st.SearchStrategy[int]:
    """Draw thresholds: a low one lets a session survive many dropouts, a high one shows an error by one."""
    lowest = 2 if adversary is Adversary.HONEST_BUT_CURIOUS else max(2, holders // 2 + 1)
    return st.integers(lowest, max(lowest, holders // 2)) | st.integers(lowest, holders)


@st.composite
def parameters(draw, max_clients: int = MAX_CLIENTS, adversaries=adversaries) -> Parameters:
    """Draw any parameters of a small session: every ring, wrapping on purpose or wide enough, in every mode."""
    num_clients = draw(st.integers(2, max_clients))
    ring_bits = draw(st.integers(1, 64))
    value_bits = draw(st.integers(1, ring_bits))
    adversary = draw(adversaries)
    threshold = draw(thresholds(adversary, num_clients))
    components = draw(st.sampled_from([0, 0, 1, 2, 5])) if threshold < num_clients else 0
    most_corrupt = min(threshold - 1, 2 * threshold - num_clients - 1 if adversary is not CURIOUS else threshold)
    return Parameters(
        num_clients=num_clients,
        threshold=threshold,
        degree=num_clients - 1,
        vector_length=draw(vector_lengths),
        value_bits=value_bits,
        ring_bits=ring_bits,
        modular=required_ring_bits(num_clients, value_bits) > ring_bits or draw(st.booleans()),
        adversary=adversary,
        noise_components=components,
        corrupt_clients=draw(st.integers(0, most_corrupt)) if components else 0,
    )


@dataclass(frozen=True)
class Scenario:
    """One session to run: the clients with their inputs, and which vanish when and how."""

    params: Parameters
    inputs: dict[int, np.ndarray]
    missing_from: dict[int, int]
    disconnects: frozenset[int]

    def __repr__(self) -> str:
        return (
            f"Scenario({self.params}, client_ids={list(self.inputs)}, missing_from={self.missing_from}, "
            f"disconnects={sorted(self.disconnects)})"
        )


# Two of three clients stay, so that many sessions reach their end, but few of them with all clients.
_last_rounds = st.sampled_from([NEVER] * 8 + list(range(BEFORE_KEYS, NEVER)))


@st.composite
def sparse_parameters(draw) -> Parameters:
    """Draw parameters of a graph in which not all clients are neighbours."""
    num_clients = draw(st.integers(4, MAX_CLIENTS + 4))
    degree = 2 * draw(st.integers(1, (num_clients - 2) // 2))
    adversary = draw(adversaries)
    return Parameters(
        num_clients=num_clients,
        threshold=draw(thresholds(adversary, degree)),
        degree=degree,
        vector_length=draw(vector_lengths),
        value_bits=8,
        ring_bits=draw(st.integers(12, 64)),
        adversary=adversary,
    )


@st.composite
def scenarios(draw, parameters=parameters()) -> Scenario:  # noqa: B008 - a strategy is a constant
    """Draw any parameters, client ids (in any order), inputs and schedule of dropouts."""
    params = draw(parameters)
    num_present = draw(st.integers(params.threshold, params.num_clients))
    ids = draw(st.lists(client_ids, min_size=num_present, max_size=num_present, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = (1 << params.value_bits) - 1
    # Inputs that all have the largest value would show an overflow.
    low = draw(st.sampled_from([0, largest]))
    inputs = {i: rng.integers(low, largest, params.vector_length, dtype=np.uint64, endpoint=True) for i in ids}
    schedule = draw(st.lists(_last_rounds, min_size=num_present, max_size=num_present))
    missing_from = {i: last for i, last in zip(ids, schedule, strict=True) if last != NEVER}
    disconnects = frozenset(i for i in missing_from if draw(st.booleans()))
    return Scenario(params, inputs, missing_from, disconnects)


def _repeated(size: int, count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size * count, max_size=size * count)


@st.composite
def _flags(draw, params: Parameters) -> tuple[bool, ...]:
    return tuple(draw(st.lists(st.booleans(), max_size=params.degree + 1)))


@st.composite
def _peer_keys(draw, params: Parameters) -> PeerKeys:
    ids = sorted(draw(st.sets(client_ids, max_size=params.degree + 1)))
    signed = len(ids) if params.is_signed else 0
    return PeerKeys(
        draw(session_ids),
        tuple(ids),
        draw(_repeated(32, len(ids))),
        draw(_repeated(32, len(ids))),
        draw(_repeated(32, signed)),
        draw(_repeated(64, signed)),
    )


@st.composite
def _encrypted_shares(draw, params: Parameters) -> bytes:
    return draw(_repeated(ENCRYPTED_SHARES_BYTES, draw(st.integers(0, params.degree))))


@st.composite
def _consistency_proof(draw, params: Parameters) -> ConsistencyProof:
    """Draw a proof: on a sparse graph with views of any members; on the complete one without."""
    consistent = draw(_flags(params))
    signers = draw(st.integers(0, params.degree))
    peers = 0 if params.is_complete else signers
    common = _repeated((len(consistent) + 7) // 8, peers)
    # Members outside the receiver's own neighbourhood: at most all of each view.
    others = st.integers(0, peers * len(consistent)).flatmap(lambda count: _repeated(32, count))
    return ConsistencyProof(draw(session_ids), consistent, draw(_repeated(64, signers)), draw(common), draw(others))


@st.composite
def _masked_input(draw, params: Parameters) -> MaskedInput:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vector = rng.integers(0, params.modulus - 1, params.vector_length, dtype=np.uint64, endpoint=True)
    return MaskedInput(draw(session_ids), vector.astype(ring.word_dtype(params.ring_bits)))


@st.composite
def _unmasking_shares(draw, params: Parameters) -> UnmaskingShares:
    held = draw(_flags(params))
    count = sum(held) * LIMBS
    limbs = draw(st.lists(st.integers(0, PRIME - 1), min_size=count, max_size=count))
    pads = draw(_field_elements(st.integers(0, params.noise_components * sum(held))))
    pairwise_keys = draw(_repeated(16, draw(st.integers(0, params.degree)))) if params.hands_over_pairwise_keys else b""
    shares = np.array(limbs, dtype=np.uint16).reshape(-1, LIMBS)
    return UnmaskingShares(draw(session_ids), held, shares, pairwise_keys, pads)


@st.composite
def _field_elements(draw, counts: st.SearchStrategy[int]) -> bytes:
    """Draw shares of seeds as bytes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(0, PRIME, draw(counts) * LIMBS).astype(">u2").tobytes()


def _share_keys(params: Parameters) -> st.SearchStrategy:
    most = params.noise_components * (params.num_clients - params.threshold + 1)
    return st.builds(
        ShareKeys,
        session_ids,
        _repeated(32, 1),
        _encrypted_shares(params),
        _repeated(32, params.noise_components),
        _field_elements(st.integers(0, most)),
    )


def client_messages(params: Parameters) -> st.SearchStrategy:
    """Draw well-formed messages that a client of such a session may send, with any content."""
    key, signature = _repeated(32, 1), _repeated(64, 1)
    signed = (key, signature) if params.is_signed else ()
    messages = [
        st.builds(AdvertiseKeys, session_ids, key, key, *signed),
        _share_keys(params),
        _masked_input(params),
        _unmasking_shares(params),
    ]
    if params.is_signed:
        messages.append(st.builds(ConsistencyCheck, session_ids, signature))
    return st.one_of(messages)


def server_messages(params: Parameters) -> st.SearchStrategy:
    """Draw well-formed messages that the server of such a session may send, with any content."""
    messages = [
        _peer_keys(params),
        st.builds(PeerShares, session_ids, _flags(params), _encrypted_shares(params)),
        st.builds(SurvivorList, session_ids, _flags(params)),
    ]
    if params.is_signed:
        messages.append(_consistency_proof(params))
    return st.one_of(messages)
