"""The codec: every message has exactly one encoding, and nothing else is a message."""

import tracemalloc
from functools import cache
from itertools import pairwise

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import (
    CodecError,
    LocalProtocolError,
    decode_client_message,
    decode_server_message,
    encode,
    encode_parts,
    max_message_bytes,
)
from secagg.algebra import ring
from secagg.messages import (
    AdvertiseKeys,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ServerMessage,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests import reference
from tests.cohort import make_params
from tests.secagg.machines import ALICE, ALL_MESSAGES, CLIENT_MESSAGES, PARAMS, SERVER_MESSAGES, script
from tests.strategies import client_messages, parameters, server_messages

TYPE_CODES = {
    AdvertiseKeys: 1,
    PeerKeys: 2,
    ShareKeys: 3,
    PeerShares: 4,
    MaskedInput: 5,
    SurvivorList: 6,
    UnmaskingShares: 7,
}

each_message = pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)


def decode(data, kind, params=PARAMS):
    decoder = decode_server_message if issubclass(kind, ServerMessage) else decode_client_message
    return decoder(data, params)


@cache
def encoded(kind: type) -> bytes:
    """An honest message of this type, from the recorded session of five clients."""
    return encode(script().message(kind, ALICE), PARAMS)


def items(kind: type) -> list:
    """The message's msgpack values: version, type, session id, fields."""
    return msgpack.unpackb(encoded(kind))


def refused(data, kind, match=None, params=PARAMS) -> None:
    with pytest.raises(CodecError, match=match):
        decode(data, kind, params)


# --- What is a message -----------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.data(), parameters())
def test_every_message_survives_the_round_trip(data, params):
    for strategy, decoder in [(client_messages, decode_client_message), (server_messages, decode_server_message)]:
        message = data.draw(strategy(params))
        wire = encode(message, params)
        assert type(wire) is bytes
        assert len(wire) <= max_message_bytes(params)
        assert decoder(wire, params) == message
        assert decoder(memoryview(wire), params) == message
        values = msgpack.unpackb(wire)
        assert values[:3] == [1, TYPE_CODES[type(message)], message.session_id]
        assert msgpack.packb(values) == wire, "the encoding is msgpack's own, the shortest"


def flag_bytes(flags) -> bytes:
    return sum(flag << place for place, flag in enumerate(flags)).to_bytes((len(flags) + 7) // 8, "little")


@each_message
def test_fields_are_encoded_as_documented(kind):
    """Written out once more with plain Python: ids, flags and limbs as any other language would write them."""
    message = script().message(kind, ALICE)
    fields = {
        AdvertiseKeys: lambda m: [m.channel_public_key, m.mask_public_key],
        PeerKeys: lambda m: [
            b"".join(client_id.to_bytes(4, "big") for client_id in m.client_ids),
            m.channel_public_keys,
            m.mask_public_keys,
        ],
        ShareKeys: lambda m: [m.encrypted_shares],
        PeerShares: lambda m: [len(m.shared), flag_bytes(m.shared), m.encrypted_shares],
        MaskedInput: lambda m: [reference.pack(m.masked_input.tolist(), PARAMS.ring_bits)],
        SurvivorList: lambda m: [len(m.survivors), flag_bytes(m.survivors)],
        UnmaskingShares: lambda m: [
            len(m.held),
            flag_bytes(m.held),
            b"".join(limb.to_bytes(2, "big") for limb in m.shares.reshape(-1).tolist()),
        ],
    }[kind](message)
    assert items(kind) == [1, TYPE_CODES[kind], message.session_id, *fields]


def test_the_bytes_that_a_peer_costs():
    """Design, section 5: 64 bytes of keys, two shares of 52 up and down, and 18 for unmasking."""
    grow = {}
    for num_clients in (20, 21):
        params = make_params(num_clients, 3)
        grow[num_clients] = [
            len(encode(message, params))
            for message in (
                PeerKeys(bytes(32), tuple(range(num_clients)), bytes(32 * num_clients), bytes(32 * num_clients)),
                ShareKeys(bytes(32), bytes(52 * (num_clients - 1))),
                PeerShares(bytes(32), (True,) * num_clients, bytes(52 * (num_clients - 1))),
                UnmaskingShares(bytes(32), (True,) * num_clients, np.zeros((num_clients, 9), dtype=np.uint16)),
            )
        ]
    assert [after - before for before, after in zip(grow[20], grow[21], strict=True)] == [4 + 64, 52, 52, 18]


def test_decoded_vectors_are_plain_arrays_that_can_be_summed():
    decoded = decode(encoded(MaskedInput), MaskedInput)
    assert type(decoded.masked_input) is np.ndarray
    assert decoded.masked_input.dtype == np.uint32


@pytest.mark.parametrize("client_ids", [(), (0,), (2**32 - 1,), (0, 1, 2**31, 2**32 - 1)])
def test_client_ids_of_all_sizes(client_ids):
    keys = bytes(32 * len(client_ids))
    message = PeerKeys(bytes(32), client_ids, keys, keys)
    assert decode(encode(message, PARAMS), PeerKeys) == message


NO_MESSAGES = {
    "None": None,
    "bytes": b"bytes",
    "a class": SurvivorList,
    "a vector too short": MaskedInput(bytes(32), np.zeros(39, dtype=np.uint32)),
    "a vector of another dtype": MaskedInput(bytes(32), np.zeros(40, dtype=np.uint16)),
    "a vector that is none": MaskedInput(bytes(32), [0] * 40),
    # Its bits would run over into the next element.
    "a vector that is not reduced": MaskedInput(bytes(32), np.full(40, 2**19, dtype=np.uint32)),
    "ids that are too large": PeerKeys(bytes(32), (2**32,), bytes(32), bytes(32)),
    "ids that are negative": PeerKeys(bytes(32), (-1,), bytes(32), bytes(32)),
}


@pytest.mark.parametrize("value", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message_is_not_encoded(value):
    assert (PARAMS.vector_length, PARAMS.ring_bits) == (40, 19)
    with pytest.raises(LocalProtocolError):
        encode(value, PARAMS)


@pytest.mark.parametrize("params", [None, {"num_clients": 5}])
def test_what_is_no_parameters_is_the_callers_mistake(params):
    message = script().message(SurvivorList, ALICE)
    for call in (
        lambda: encode(message, params),
        lambda: decode_server_message(encoded(SurvivorList), params),
        lambda: max_message_bytes(params),
    ):
        with pytest.raises(LocalProtocolError, match="Parameters"):
            call()


# --- What is none ----------------------------------------------------------------------------------------------------


@each_message
def test_every_prefix_is_refused(kind):
    data = encoded(kind)
    for size in range(len(data)):
        refused(data[:size], kind)


@each_message
def test_every_trailing_byte_is_refused(kind):
    data = encoded(kind)
    for byte in range(256):
        refused(data + bytes([byte]), kind)
    refused(data + data, kind)


@each_message
def test_a_field_more_or_less_is_refused(kind):
    values = items(kind)
    refused(msgpack.packb(values[:-1]), kind, "fields")
    for more in (None, 0, b"", "note", {"note": 1}):
        refused(msgpack.packb([*values, more]), kind, "fields")
    refused(msgpack.packb([]), kind)
    refused(msgpack.packb([1]), kind)
    refused(msgpack.packb([1, TYPE_CODES[kind]]), kind)


@each_message
def test_anything_but_an_array_is_refused(kind):
    values = items(kind)
    for other in (None, 1, b"", "text", dict(enumerate(values)), values[-1], [values]):
        refused(msgpack.packb(other), kind)
    refused(b"", kind)


OTHER_TYPES = [
    None,
    True,
    False,
    0.0,
    1.5,
    "",
    "text",
    -1,
    -(2**63),
    2**64 - 1,
    [],
    [1],
    {},
    {"a": 1},
    b"",
    b"x",
    msgpack.Timestamp(0),
    msgpack.ExtType(5, b"x"),
]


@each_message
def test_a_wrong_type_in_any_position_is_refused(kind):
    values = items(kind)
    for position, value in enumerate(values):
        for other in OTHER_TYPES:
            if type(other) is type(value):
                continue  # Other values of the right type have tests of their own.
            refused(msgpack.packb([*values[:position], other, *values[position + 1 :]]), kind)
        as_text = msgpack.packb([*values[:position], "x" * 32, *values[position + 1 :]])
        refused(as_text, kind)


@each_message
@pytest.mark.parametrize("version", [0, 2, 127, 128, 255, 2**32, 2**64 - 1])
def test_another_version_is_refused(kind, version):
    refused(msgpack.packb([version, *items(kind)[1:]]), kind, "version")


@each_message
@pytest.mark.parametrize("code", [0, 8, 127, 128, 255, 2**64 - 1])
def test_an_unknown_type_is_refused(kind, code):
    version, _, *rest = items(kind)
    refused(msgpack.packb([version, code, *rest]), kind, "type")


@each_message
def test_a_message_of_the_other_direction_is_refused(kind):
    wrong_way = CLIENT_MESSAGES[0] if kind in SERVER_MESSAGES else SERVER_MESSAGES[0]
    refused(encoded(kind), wrong_way, "not known in this direction")


@each_message
def test_the_fields_of_another_type_are_refused(kind):
    version, _, *rest = items(kind)
    siblings = SERVER_MESSAGES if kind in SERVER_MESSAGES else CLIENT_MESSAGES
    for other in siblings:
        if other is not kind:
            refused(msgpack.packb([version, TYPE_CODES[other], *rest]), kind)


@each_message
@pytest.mark.parametrize("change", [-1, 1])
def test_a_byte_string_of_another_length_is_refused(kind, change):
    values = items(kind)
    for position, value in enumerate(values):
        if type(value) is bytes:
            other = value[:-1] if change < 0 else value + b"\0"
            refused(msgpack.packb([*values[:position], other, *values[position + 1 :]]), kind)


@each_message
def test_other_counts_of_flags_are_refused(kind):
    """Those that ask for another number of bytes, are above the limit, or leave padding that is not zero."""
    values = items(kind)
    for position, value in enumerate(values[3:], start=3):
        if type(value) is int:
            for count in (0, value + 1, 8, 9, 255, 256, 2**16, 2**32, 2**64 - 1):
                refused(msgpack.packb([*values[:position], count, *values[position + 1 :]]), kind)


LIMITED = [
    ("client ids", lambda count: PeerKeys(bytes(32), tuple(range(count)), bytes(32 * count), bytes(32 * count)), 5),
    ("encrypted shares up", lambda count: ShareKeys(bytes(32), bytes(52 * count)), 4),
    ("encrypted shares down", lambda count: PeerShares(bytes(32), (True,) * 5, bytes(52 * count)), 4),
    ("flags of who shared", lambda count: PeerShares(bytes(32), (True,) * count, b""), 5),
    ("flags of survivors", lambda count: SurvivorList(bytes(32), (True,) * count), 5),
    (
        "flags of shares held",
        lambda count: UnmaskingShares(bytes(32), (True,) * count, np.zeros((count, 9), dtype=np.uint16)),
        5,
    ),
]


@pytest.mark.parametrize(("name", "build", "limit"), LIMITED, ids=[name for name, *_ in LIMITED])
def test_lists_are_bounded_by_the_parameters(name, build, limit):
    """Five clients: what may be listed, and one more; with vectors long enough that the total size says nothing."""
    params = make_params(5, 3, vector_length=1000)
    at_most = build(limit)
    assert decode(encode(at_most, params), type(at_most), params) == at_most
    refused(encode(build(limit + 1), params), type(at_most), "at most", params)


def test_ids_must_ascend():
    values = items(PeerKeys)
    for ids in [(3, 17, 17, 40, 50), (17, 3, 20, 40, 50), (1, 2, 3, 5, 4), (0, 0, 0, 0, 0)]:
        values[3] = reference.id_bytes(*ids)
        refused(msgpack.packb(values), PeerKeys, "ascending")


@pytest.mark.parametrize("kind", [PeerShares, SurvivorList, UnmaskingShares], ids=lambda kind: kind.__name__)
def test_padding_of_flags_must_be_zero(kind):
    values = items(kind)
    for bit in (5, 6, 7):
        flags = bytes([values[4][0] | 1 << bit])
        refused(msgpack.packb([*values[:4], flags, *values[5:]]), kind, "padding")


def test_padding_of_vectors_must_be_zero():
    params = make_params(3, 2, vector_length=3, value_bits=7)
    assert params.ring_bits * 3 % 8 == 3
    message = MaskedInput(bytes(32), np.array([1, 2, 3], dtype=np.uint16))
    data = bytearray(encode(message, params))
    for bit in range(3, 8):
        dirty = bytearray(data)
        dirty[-1] |= 1 << bit
        refused(bytes(dirty), MaskedInput, "padding", params)


@pytest.mark.parametrize("limb", [65521, 65535])
def test_limbs_outside_the_field_are_refused(limb):
    *values, shares = items(UnmaskingShares)
    for position in (0, len(shares) - 2):
        forged = shares[:position] + limb.to_bytes(2, "big") + shares[position + 2 :]
        refused(msgpack.packb([*values, forged]), UnmaskingShares, "field")


# --- One encoding only -----------------------------------------------------------------------------------------------


def forms_of_int(value: int) -> list[bytes]:
    """Every way in which msgpack could write the number, the shortest first."""
    sizes = [1, 2, 4, 8]
    forms = [bytes([value])] if value < 128 else []
    for head, limit in [(0xCC, 256), (0xD0, 128)]:  # Unsigned, then signed.
        for power, size in enumerate(sizes):
            if value < limit * 256 ** (size - 1):
                forms.append(bytes([head + power]) + value.to_bytes(size, "big"))
    return forms


def forms_of_bytes(value: bytes) -> list[bytes]:
    """Every way in which msgpack could write the bytes, the shortest first; then as text."""
    sizes = [(0xC4, 1), (0xC5, 2), (0xC6, 4)]
    forms = [bytes([head]) + len(value).to_bytes(size, "big") + value for head, size in sizes if len(value) < 256**size]
    texts = [(0xD9, 1), (0xDA, 2), (0xDB, 4)]
    forms += [
        bytes([head]) + len(value).to_bytes(size, "big") + value for head, size in texts if len(value) < 256**size
    ]
    return forms


@each_message
def test_only_the_shortest_form_of_each_value_is_a_message(kind):
    values = items(kind)
    forms = [forms_of_int(value) if type(value) is int else forms_of_bytes(value) for value in values]
    head = bytes([0x90 + len(values)])
    shortest = [form[0] for form in forms]
    assert head + b"".join(shortest) == encoded(kind)
    for position, others in enumerate(forms):
        assert len(others) > 1
        for other in others[1:]:
            data = head + b"".join([*shortest[:position], other, *shortest[position + 1 :]])
            refused(data, kind)
    for long_head in (b"\xdc" + len(values).to_bytes(2, "big"), b"\xdd" + len(values).to_bytes(4, "big")):
        refused(long_head + b"".join(shortest), kind)


@pytest.mark.parametrize("count", [127, 128, 200, 255, 256, 300])
def test_counts_at_the_edges_of_msgpacks_forms(count):
    params = make_params(300, 151, vector_length=2000)
    message = SurvivorList(bytes(32), (True, False) * (count // 2) + (True,) * (count % 2))
    data = encode(message, params)
    assert decode(data, SurvivorList, params) == message
    body = msgpack.packb(flag_bytes(message.survivors))
    head = b"\x95\x01\x06" + msgpack.packb(bytes(32))
    for form in forms_of_int(count)[1:]:
        refused(head + form + body, SurvivorList, params=params)


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
def test_huge_declared_lengths_cost_nothing(kind):
    """A length of 4 GiB, a count of 2^64: only what is really there is ever read."""
    values = items(kind)
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
            assert peak_of(lambda data=before + claim + b"some bytes": decode(data, kind)) < 100_000
    assert peak_of(lambda: decode(b"\xdd\xff\xff\xff\xff", kind)) < 100_000


def test_a_wrong_masked_input_is_refused_before_it_is_unpacked():
    """The vector is there, 8 MB of it, but what surrounds it is wrong: nothing of its size is allocated."""
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
    """No message is above it (other tests), and it is not so generous as to be none."""
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


# --- Fuzz ------------------------------------------------------------------------------------------------------------


def only_codec_errors_escape(data, params=PARAMS) -> None:
    """What is accepted must be the one encoding of what it was read as; all else is a CodecError."""
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
@given(st.sampled_from(ALL_MESSAGES), st.binary(max_size=200))
def test_random_bytes_behind_a_right_beginning(kind, data):
    only_codec_errors_escape(encoded(kind)[: 3 + 34] + data)


_mutations = st.lists(
    st.tuples(st.sampled_from(["set", "flip", "delete", "insert", "repeat"]), st.integers(0, 500), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=2000)
@given(st.sampled_from(ALL_MESSAGES), _mutations)
def test_mutated_messages(kind, mutations):
    data = bytearray(encoded(kind))
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
    only_codec_errors_escape(bytes(data))


_nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=40) | st.binary(max_size=70),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=500)
@given(st.integers(0, 9), st.lists(_nested, max_size=5))
def test_other_msgpack_values(code, values):
    only_codec_errors_escape(msgpack.packb([1, code, bytes(32), *values]))
    only_codec_errors_escape(msgpack.packb([1, code, *values]))


def test_every_byte_of_every_message_changed_in_every_bit():
    for kind in ALL_MESSAGES:
        data = encoded(kind)
        for position in range(len(data)):
            for bit in range(8):
                only_codec_errors_escape(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])


def test_spliced_messages():
    """The beginning of one message with the end of another."""
    for one, other in pairwise([*ALL_MESSAGES, ALL_MESSAGES[0]]):
        for cut in range(0, min(len(encoded(one)), len(encoded(other))), 3):
            only_codec_errors_escape(encoded(one)[:cut] + encoded(other)[cut:])


@pytest.mark.parametrize("view", ["two-byte items", "two dimensions", "not contiguous", "empty"])
def test_views_of_memory_that_are_no_row_of_bytes(view):
    """A host that hands over the buffer of an array gets its bytes read, or a CodecError; never another exception."""
    even = encoded(ShareKeys) + bytes(len(encoded(ShareKeys)) % 2)
    memory = {
        "two-byte items": memoryview(np.frombuffer(even, dtype=np.uint16)),
        "two dimensions": memoryview(np.frombuffer(even, dtype=np.uint8).reshape(2, -1)),
        "not contiguous": memoryview(bytes(byte for byte in even for _ in range(2)))[::2],
        "empty": memoryview(b""),
    }[view]
    only_codec_errors_escape(memory)


@pytest.mark.parametrize("ring_bits", [8, 16, 32, 64])
def test_a_masked_input_of_whole_words_is_encoded_without_a_copy(ring_bits):
    params = make_params(vector_length=1000, value_bits=4, ring_bits=ring_bits)
    vector = np.arange(1000).astype(f"<u{ring_bits // 8}")
    _, payload = encode_parts(MaskedInput(bytes(32), vector), params)
    assert np.shares_memory(np.frombuffer(payload, dtype=np.uint8), vector)


@pytest.mark.parametrize("field", [None, 5, "text", [1], 2.0])
def test_a_field_that_is_no_byte_string_is_not_encoded(field):
    with pytest.raises(LocalProtocolError, match="ShareKeys"):
        encode_parts(ShareKeys(bytes(32), field), make_params())
