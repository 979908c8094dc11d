"""The codec: every message has exactly one encoding, as documented."""

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import (
    LocalProtocolError,
    decode_client_message,
    decode_server_message,
    encode,
    encode_parts,
    max_message_bytes,
)
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
from tests import reference
from tests.secagg.codec_samples import TYPE_CODES, Sample, decode, each_message, flag_bytes
from tests.secagg.machines import (
    ALICE,
    PARAMS,
    SPARSE_PARAMS,
    script,
    sparse_script,
)
from tests.support.sessions import make_params
from tests.support.strategies import client_messages, parameters, server_messages, sparse_parameters

# --- Messages ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.data(), parameters() | sparse_parameters())
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


@each_message
def test_fields_are_encoded_as_documented(sample):
    """The fields are written again with plain Python: ids, flags and limbs as another language would write them."""
    kind, message = sample.kind, sample.message
    assert sample.items == [1, TYPE_CODES[kind], message.session_id, *documented_fields(kind, message)]


def test_the_fields_of_views_are_encoded_as_documented():
    message = sparse_script().message(ConsistencyProof, ALICE)
    assert message.common
    assert message.others
    values = [1, 9, message.session_id, *documented_fields(ConsistencyProof, message)]
    assert msgpack.unpackb(encode(message, SPARSE_PARAMS)) == values


def documented_fields(kind, message) -> list:
    return {
        AdvertiseKeys: lambda m: [m.channel_public_key, m.mask_public_key, m.identity_key, m.signature],
        PeerKeys: lambda m: [
            b"".join(client_id.to_bytes(4, "big") for client_id in m.client_ids),
            m.channel_public_keys,
            m.mask_public_keys,
            m.identity_keys,
            m.signatures,
        ],
        ShareKeys: lambda m: [m.seed_commitment, m.encrypted_shares, m.noise_commitments, m.noise_corrections],
        PeerShares: lambda m: [len(m.shared), flag_bytes(m.shared), m.encrypted_shares],
        MaskedInput: lambda m: [reference.pack(m.masked_input.tolist(), PARAMS.ring_bits)],
        SurvivorList: lambda m: [len(m.survivors), flag_bytes(m.survivors)],
        UnmaskingShares: lambda m: [
            len(m.held),
            flag_bytes(m.held),
            b"".join(limb.to_bytes(2, "big") for limb in m.shares.reshape(-1).tolist()),
            m.pairwise_keys,
            m.noise_pads,
        ],
        ConsistencyCheck: lambda m: [m.signature],
        ConsistencyProof: lambda m: [len(m.consistent), flag_bytes(m.consistent), m.signatures, m.common, m.others],
    }[kind](message)


def test_the_bytes_that_a_peer_costs():
    """Design, section 5: 64 bytes of keys, two shares of 52 up and down, and 18 for unmasking."""
    grow = {}
    for num_clients in (20, 21):
        params = make_params(num_clients, 3)
        grow[num_clients] = [
            len(encode(message, params))
            for message in (
                PeerKeys(bytes(32), tuple(range(num_clients)), bytes(32 * num_clients), bytes(32 * num_clients)),
                ShareKeys(bytes(32), bytes(32), bytes(52 * (num_clients - 1))),
                PeerShares(bytes(32), (True,) * num_clients, bytes(52 * (num_clients - 1))),
                UnmaskingShares(bytes(32), (True,) * num_clients, np.zeros((num_clients, 9), dtype=np.uint16)),
            )
        ]
    assert [after - before for before, after in zip(grow[20], grow[21], strict=True)] == [4 + 64, 52, 52, 18]


def test_decoded_vectors_are_plain_arrays_that_can_be_summed():
    decoded = decode(Sample(MaskedInput).data, MaskedInput)
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
    "a vector that is a list": MaskedInput(bytes(32), [0] * 40),
    # Its bits would run over into the next element.
    "a vector that is not reduced": MaskedInput(bytes(32), np.full(40, 2**19, dtype=np.uint32)),
    "ids that are too large": PeerKeys(bytes(32), (2**32,), bytes(32), bytes(32)),
    "ids that are negative": PeerKeys(bytes(32), (-1,), bytes(32), bytes(32)),
    # An array of ids would cut it to 1, the id of another client.
    "ids that are not whole numbers": PeerKeys(bytes(32), (1.5,), bytes(32), bytes(32)),
}


@pytest.mark.parametrize("value", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_invalid_messages_are_not_encoded(value):
    assert (PARAMS.vector_length, PARAMS.ring_bits) == (40, 19)
    with pytest.raises(LocalProtocolError):
        encode(value, PARAMS)


@pytest.mark.parametrize("params", [None, {"num_clients": 5}])
def test_invalid_parameters_are_the_callers_mistake(params):
    message = script().message(SurvivorList, ALICE)
    for call in (
        lambda: encode(message, params),
        lambda: decode_server_message(Sample(SurvivorList).data, params),
        lambda: max_message_bytes(params),
    ):
        with pytest.raises(LocalProtocolError, match="Parameters"):
            call()


@pytest.mark.parametrize("ring_bits", [8, 16, 32, 64])
def test_a_masked_input_of_whole_words_is_encoded_without_a_copy(ring_bits):
    params = make_params(vector_length=1000, value_bits=4, ring_bits=ring_bits)
    vector = np.arange(1000).astype(f"<u{ring_bits // 8}")
    _, payload = encode_parts(MaskedInput(bytes(32), vector), params)
    assert np.shares_memory(np.frombuffer(payload, dtype=np.uint8), vector)


@pytest.mark.parametrize("field", [None, 5, "text", [1], 2.0])
def test_a_field_that_is_not_a_byte_string_is_not_encoded(field):
    with pytest.raises(LocalProtocolError, match="ShareKeys"):
        encode_parts(ShareKeys(bytes(32), bytes(32), field), make_params())
    with pytest.raises(LocalProtocolError, match="ShareKeys"):
        encode_parts(ShareKeys(bytes(32), bytes(32), b"", b"", field), make_params())
