"""Partial sums: several processes of the server take masked inputs, and each passes on one vector."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Adversary, Completed, DropReason, LocalProtocolError, Server, ServerPhase
from secagg.algebra import ring
from secagg.messages import MaskedInput
from tests.support.sessions import BEFORE_INPUT, BEFORE_UNMASKING, Cohort, exact_sum, make_params, random_inputs

NUM_CLIENTS = 9


@dataclass(eq=False)
class WithFronts(Cohort):
    """A session in which client i sends its masked input to ``front_of[i]``, and the fronts in ``lost`` end with it."""

    front_of: dict[int, int] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()
    held: dict[int, list[tuple[int, np.ndarray]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.uplink = self._to_front
        super().__post_init__()

    def _to_front(self, client_id: int, message: Any) -> Any:
        if not isinstance(message, MaskedInput):
            return message
        self.held.setdefault(self.front_of[client_id], []).append((client_id, message.masked_input))
        return None

    def open(self) -> dict[int, Any]:
        if self.server.phase is ServerPhase.MASKED_INPUT_COLLECTION:
            for front, inputs in self.held.items():
                if front not in self.lost:
                    ids, vectors = zip(*inputs, strict=True)
                    self.server.receive_partial(ids, np.sum(vectors, axis=0, dtype=vectors[0].dtype))
        return super().open()


@settings(max_examples=40)
@given(
    adversary=st.sampled_from(Adversary),
    sparse=st.booleans(),
    ring_bits=st.sampled_from([12, 16, 40]),
    front_of=st.lists(st.integers(0, 2), min_size=NUM_CLIENTS, max_size=NUM_CLIENTS),
    vanishes=st.dictionaries(
        st.integers(0, NUM_CLIENTS - 1), st.sampled_from([BEFORE_INPUT, BEFORE_UNMASKING]), max_size=2
    ),
    lost=st.none() | st.integers(0, 2),
)
def test_the_sum_is_over_the_clients_of_the_remaining_fronts(
    adversary: Adversary,
    sparse: bool,
    ring_bits: int,
    front_of: list[int],
    vanishes: dict[int, int],
    lost: int | None,
) -> None:
    degree = 6 if sparse else NUM_CLIENTS - 1
    params = make_params(
        NUM_CLIENTS, 4 if sparse else 5, vector_length=5, ring_bits=ring_bits, degree=degree, adversary=adversary
    )
    inputs = random_inputs(params, seed=1)
    cohort = WithFronts(
        params, inputs, vanishes, front_of=dict(enumerate(front_of)), lost=frozenset() if lost is None else {lost}
    ).run()
    there = {i for i in range(NUM_CLIENTS) if vanishes.get(i) != BEFORE_INPUT and front_of[i] != lost}
    if isinstance(cohort.end, Completed):
        assert set(cohort.end.included) == there
        assert cohort.end.sum.tolist() == exact_sum(params, [inputs[i] for i in cohort.end.included])
    else:
        # Enough clients are left if none is lost; the reference decides like the machine with single inputs.
        single = Cohort(params, inputs, vanishes | dict.fromkeys(set(range(NUM_CLIENTS)) - there, BEFORE_INPUT)).run()
        assert type(single.end) is type(cohort.end) or sparse
        assert lost is not None or vanishes


IDS = (1, 3, 5, 8, 13)


def server_in(phase: ServerPhase) -> tuple[Server, dict[int, np.ndarray]]:
    """Return a server, and masked inputs of its clients that it has not received."""
    params = make_params(5, 3, vector_length=6, ring_bits=12)
    inputs = dict(zip(IDS, random_inputs(params, seed=2).values(), strict=True))
    masked: dict[int, np.ndarray] = {}

    def keep(client_id: int, message: Any) -> Any:
        if isinstance(message, MaskedInput):
            masked[client_id] = message.masked_input
            return None
        return message

    cohort = Cohort(params, inputs, uplink=keep, entropy_seed="partial")
    cohort.start()
    while cohort.server.phase is not phase:
        cohort.deliver(cohort.open())
    return cohort.server, masked


@pytest.mark.parametrize(
    ("client_ids", "vector", "words"),
    [
        ((), None, "each once"),
        ((3, 3), None, "each once"),
        ((3, 4), None, "1 of the partial sum's 2 clients are unknown, were dropped, or are in the sum already: 4"),
        ((3, 13), None, "already: 13"),
        ((3, 8), None, "already: 8"),
        ((3, True), None, "already: True"),
        ((3, "5"), None, "already: '5'"),
        ((3, [5]), None, r"already: \[5\]"),
        ((3, 5), np.zeros(5, np.uint16), r"shape \(6,\) and dtype uint16"),
        ((3, 5), np.zeros(6, np.uint32), r"shape \(6,\) and dtype uint16"),
        ((3, 5), [0] * 6, r"shape \(6,\) and dtype uint16"),
    ],
)
def test_a_wrong_partial_sum_is_refused_as_a_whole(client_ids: Any, vector: Any, words: str) -> None:
    server, masked = server_in(ServerPhase.MASKED_INPUT_COLLECTION)
    server.receive(13, MaskedInput(server.session_id, masked[13]))
    server.drop(8, DropReason.DISCONNECTED)
    before = server.status, server.pending, server.transcript
    with pytest.raises(LocalProtocolError, match=words):
        server.receive_partial(client_ids, masked[3] + masked[5] if vector is None else vector)
    assert (server.status, server.pending, server.transcript) == before
    server.receive_partial((3, 5), masked[3] + masked[5])
    assert server.num_received == 3
    assert server.pending == {1}
    (duplicate,) = server.receive(3, MaskedInput(server.session_id, masked[3]))
    assert duplicate.reason is DropReason.DUPLICATE


def test_a_partial_sum_may_wrap_around() -> None:
    server, masked = server_in(ServerPhase.MASKED_INPUT_COLLECTION)
    total = np.sum(list(masked.values()), axis=0, dtype=np.uint16)
    assert not ring.is_reduced(total, 12)
    server.receive_partial(IDS, total)
    assert server.status.ready


@pytest.mark.parametrize("phase", [ServerPhase.ADVERTISE_KEYS, ServerPhase.SHARE_KEYS, ServerPhase.ABORTED])
def test_partial_sums_are_taken_in_their_round_alone(phase: ServerPhase) -> None:
    if phase is ServerPhase.ABORTED:
        server, _ = server_in(ServerPhase.MASKED_INPUT_COLLECTION)
        server.abort()
    else:
        server, _ = server_in(phase)
    with pytest.raises(LocalProtocolError, match=f"needs the phase MASKED_INPUT_COLLECTION, .* in {phase.name}"):
        server.receive_partial((3,), np.zeros(6, np.uint16))
