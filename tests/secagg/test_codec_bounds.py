"""The codec against hostile bytes: claimed lengths allocate nothing, and CodecError is the only error."""

import tracemalloc
from itertools import pairwise

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import (
    CodecError,
    decode_client_message,
    decode_server_message,
    encode,
    max_message_bytes,
)
from secagg.algebra import ring
from secagg.messages import (
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
)
from tests.secagg.codec_samples import SAMPLES, Sample, decode, each_message
from tests.secagg.machines import (
    ALICE,
    MALICIOUS,
    PARAMS,
    SIGNED_PARAMS,
    SPARSE_PARAMS,
    sparse_script,
)
from tests.support.sessions import make_params

# --- No allocation on a claim ----------------------------------------------------------------------------------------


def peak_of(call) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each_message
def test_huge_declared_lengths_cost_nothing(sample):
    """A length of 4 GiB or a count of 2^64: only bytes that are there are read."""
    kind, params, values = sample.kind, sample.params, sample.items
    head = bytes([0x90 + len(values)])
    for position, value in enumerate(values):
        before = head + b"".join(map(msgpack.packb, values[:position]))
        claims = [
            b"\xc6\xff\xff\xff\xff",
            b"\xc5\xff\xff",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
        ]
        if type(value) is int:
            claims += [b"\xcf" + b"\xff" * 8, b"\xce\xff\xff\xff\xff"]
        for claim in claims:
            assert peak_of(lambda data=before + claim + b"some bytes": decode(data, kind, params)) < 100_000
    assert peak_of(lambda: decode(b"\xdd\xff\xff\xff\xff", kind, params)) < 100_000


def test_a_wrong_masked_input_is_refused_before_it_is_unpacked():
    """The vector is there, 8 MB of it, but the bytes around it are wrong: nothing of its size is allocated."""
    params = make_params(3, 2, vector_length=2**21, value_bits=29, ring_bits=31)
    data = encode(MaskedInput(bytes(32), np.zeros(2**21, dtype=np.uint32)), params)
    assert len(data) > 8_000_000
    wrong = {
        "cut short": data[:-1],
        "version": b"\x94\x02" + data[2:],
        "one byte more": data + b"\0",
        "session id": data[:4] + b"\x1f" + data[5:-1],
    }
    for name, broken in wrong.items():
        assert peak_of(lambda broken=broken: decode(broken, MaskedInput, params)) < 100_000, name


@pytest.mark.parametrize("num_clients", [2, 5, 300])
@pytest.mark.parametrize("vector_length", [1, 100_000])
def test_oversized_data_is_refused_unread(num_clients, vector_length):
    params = make_params(num_clients, 2, vector_length)
    limit = max_message_bytes(params)
    for decoder in (decode_client_message, decode_server_message):
        with pytest.raises(CodecError, match=f"{limit + 1} bytes"):
            decoder(bytes(limit + 1), params)
        with pytest.raises(CodecError, match="array"):
            decoder(bytes(limit), params)


def test_the_limit_is_close_to_what_is_needed():
    """No message exceeds the limit (other tests), and the limit is close enough to be useful."""
    for num_clients, vector_length in [(2, 1), (100, 10), (5, 10**6), (1000, 1)]:
        params = make_params(num_clients, 2, vector_length)
        largest = max(
            len(encode(message, params))
            for message in (
                PeerKeys(bytes(32), tuple(range(num_clients)), bytes(32 * num_clients), bytes(32 * num_clients)),
                PeerShares(bytes(32), (True,) * num_clients, bytes(52 * (num_clients - 1))),
                MaskedInput(bytes(32), ring.zeros(vector_length, params.ring_bits)),
            )
        )
        assert largest <= max_message_bytes(params) <= largest + 150


def test_the_limit_is_close_to_what_malicious_mode_needs():
    for num_clients in (3, 100):
        params = make_params(num_clients, num_clients // 2 + 1, vector_length=1, adversary=MALICIOUS)
        ids = tuple(range(num_clients))
        keys = PeerKeys(bytes(32), ids, *(bytes(size * num_clients) for size in (32, 32, 32, 64)))
        largest = len(encode(keys, params))
        assert largest <= max_message_bytes(params) <= largest + 150
    # All views in a sparse graph's largest proof are of clients that are not the receiver's neighbours.
    flags = (True,) * 7
    proof = ConsistencyProof(bytes(32), flags, bytes(64 * 6), bytes(6), bytes(32 * 6 * 7))
    largest, one_view = len(encode(proof, SPARSE_PARAMS)), 64 + 1 + 7 * 32
    assert largest <= max_message_bytes(SPARSE_PARAMS) <= largest + one_view + 150


# --- Fuzz ------------------------------------------------------------------------------------------------------------


class SparseProof(Sample):
    """The one message whose form depends on the graph."""

    @property
    def params(self):
        return SPARSE_PARAMS

    @property
    def message(self):
        return sparse_script().message(ConsistencyProof, ALICE)


FUZZED = [*SAMPLES, SparseProof(ConsistencyProof, MALICIOUS)]


def only_codec_errors_escape(data, params=PARAMS) -> None:
    """Assert that accepted bytes are the one encoding of the message read from them, and all others a CodecError."""
    for decoder in (decode_client_message, decode_server_message):
        try:
            message = decoder(data, params)
        except CodecError:
            continue
        assert encode(message, params) == bytes(data)


@settings(max_examples=1000)
@given(st.binary(max_size=400))
def test_random_bytes(data):
    only_codec_errors_escape(data)


@settings(max_examples=1000)
@given(st.sampled_from(FUZZED), st.binary(max_size=200))
def test_random_bytes_behind_a_right_beginning(sample, data):
    only_codec_errors_escape(sample.data[: 3 + 34] + data, sample.params)


_mutations = st.lists(
    st.tuples(st.sampled_from(["set", "flip", "delete", "insert", "repeat"]), st.integers(0, 500), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@settings(max_examples=2000)
@given(st.sampled_from(FUZZED), _mutations)
def test_mutated_messages(sample, mutations):
    data = bytearray(sample.data)
    for action, position, byte in mutations:
        at = position % (len(data) or 1)
        match action:
            case "set":
                data[at : at + 1] = bytes([byte])
            case "flip":
                data[at : at + 1] = bytes([(data[at] if data else 0) ^ 1 << byte % 8])
            case "delete":
                del data[at : at + byte % 40]
            case "insert":
                data[at:at] = bytes([byte] * (1 + byte % 5))
            case "repeat":
                data[at:at] = data[at : at + byte]
    only_codec_errors_escape(bytes(data), sample.params)


_nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=40) | st.binary(max_size=70),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.integers(0, 11), st.lists(_nested, max_size=5), st.sampled_from([PARAMS, SIGNED_PARAMS, SPARSE_PARAMS]))
def test_other_msgpack_values(code, values, params):
    only_codec_errors_escape(msgpack.packb([1, code, bytes(32), *values]), params)
    only_codec_errors_escape(msgpack.packb([1, code, *values]), params)


def test_every_byte_of_every_message_changed_in_every_bit():
    for sample in FUZZED:
        data = sample.data
        for position in range(len(data)):
            for bit in range(8):
                changed = data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
                only_codec_errors_escape(changed, sample.params)


def test_spliced_messages():
    """The beginning of one message is joined to the end of another."""
    for one, other in pairwise([*FUZZED, FUZZED[0]]):
        for cut in range(0, min(len(one.data), len(other.data)), 3):
            only_codec_errors_escape(one.data[:cut] + other.data[cut:], one.params)


@pytest.mark.parametrize("view", ["two-byte items", "two dimensions", "not contiguous", "empty"])
def test_views_of_memory_that_are_not_rows_of_bytes(view):
    """A host that passes the buffer of an array gets its bytes read, or a CodecError; never another exception."""
    data = Sample(ShareKeys).data
    even = data + bytes(len(data) % 2)
    memory = {
        "two-byte items": memoryview(np.frombuffer(even, dtype=np.uint16)),
        "two dimensions": memoryview(np.frombuffer(even, dtype=np.uint8).reshape(2, -1)),
        "not contiguous": memoryview(bytes(byte for byte in even for _ in range(2)))[::2],
        "empty": memoryview(b""),
    }[view]
    only_codec_errors_escape(memory)
