"""Invalid messages: every byte that differs from the one encoding of a message is refused."""

from dataclasses import replace

import msgpack
import numpy as np
import pytest

from secagg import Adversary, CodecError, decode_client_message, encode
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests import reference
from tests.secagg.codec_samples import TYPE_CODES, Sample, decode, each_message, flag_bytes, items, refused
from tests.secagg.machines import (
    ALICE,
    CLIENT_MESSAGES,
    MALICIOUS,
    PARAMS,
    SERVER_MESSAGES,
    SIGNED_MESSAGES,
    SIGNED_PARAMS,
    SPARSE_PARAMS,
    noisy_script,
    sparse_script,
)
from tests.support.sessions import make_params

NOISY = noisy_script()

# --- Invalid messages -------------------------------------------------------------------------------------------------


@each_message
def test_every_prefix_is_refused(sample):
    for size in range(len(sample.data)):
        sample.refuses(sample.data[:size])


@each_message
def test_every_trailing_byte_is_refused(sample):
    for byte in range(256):
        sample.refuses(sample.data + bytes([byte]))
    sample.refuses(sample.data + sample.data)


@each_message
def test_a_field_more_or_less_is_refused(sample):
    values = sample.items
    sample.refuses(msgpack.packb(values[:-1]), "fields")
    for more in (None, 0, b"", "note", {"note": 1}):
        sample.refuses(msgpack.packb([*values, more]), "fields")
    sample.refuses(msgpack.packb([]))
    sample.refuses(msgpack.packb([1]))
    sample.refuses(msgpack.packb([1, TYPE_CODES[sample.kind]]))


@each_message
def test_anything_but_an_array_is_refused(sample):
    values = sample.items
    for other in (None, 1, b"", "text", dict(enumerate(values)), values[-1], [values]):
        sample.refuses(msgpack.packb(other))
    sample.refuses(b"")


@pytest.mark.parametrize("kind", SIGNED_MESSAGES, ids=lambda kind: kind.__name__)
def test_messages_of_the_consistency_check_are_refused_in_unsigned_modes(kind):
    refused(Sample(kind, MALICIOUS).data, kind, "not known in this direction", PARAMS)
    semi_malicious = replace(PARAMS, adversary=Adversary.SEMI_MALICIOUS)
    assert decode(Sample(kind, MALICIOUS).data, kind, semi_malicious) == Sample(kind, MALICIOUS).message


@pytest.mark.parametrize("kind", [AdvertiseKeys, PeerKeys], ids=lambda kind: kind.__name__)
def test_identities_belong_to_malicious_mode_and_to_no_other(kind):
    refused(Sample(kind, MALICIOUS).data, kind, "identity key", replace(PARAMS, vector_length=1000))
    refused(Sample(kind).data, kind, "identity key", SIGNED_PARAMS)
    for position in (-2, -1):
        values = Sample(kind, MALICIOUS).items
        values[position] = b""
        refused(msgpack.packb(values), kind, "instead of", SIGNED_PARAMS)


@pytest.mark.parametrize("field", ["common", "others"])
def test_views_of_their_own_belong_to_the_sparse_graph(field):
    sparse, complete = sparse_script().message(ConsistencyProof, ALICE), Sample(ConsistencyProof, MALICIOUS).message
    changed = replace(complete, **{field: getattr(sparse, field)})
    refused(encode(changed, SIGNED_PARAMS), ConsistencyProof, f"{field[:-1] if field == 'others' else field}",
            SIGNED_PARAMS)  # fmt: skip
    missing = replace(sparse, common=b"")
    refused(encode(missing, SPARSE_PARAMS), ConsistencyProof, "common", SPARSE_PARAMS)
    # The number of digests follows from the flags, which the client compares: here only whole digests are checked.
    cut = replace(sparse, others=sparse.others[:-1])
    refused(encode(cut, SPARSE_PARAMS), ConsistencyProof, "other", SPARSE_PARAMS)


def test_views_are_bounded_by_the_parameters():
    """Each of six views has seven members: no more digests of others are read than that."""
    message = ConsistencyProof(bytes(32), (True,) * 7, bytes(64 * 6), bytes(6), bytes(32 * 6 * 7))
    assert decode(encode(message, SPARSE_PARAMS), ConsistencyProof, SPARSE_PARAMS) == message
    roomy = replace(SPARSE_PARAMS, vector_length=4000)
    longer = replace(message, others=bytes(32 * (6 * 7 + 1)))
    refused(encode(longer, roomy), ConsistencyProof, "at most", roomy)


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
def test_a_wrong_type_in_any_position_is_refused(sample):
    values = sample.items
    for position, value in enumerate(values):
        for other in OTHER_TYPES:
            if type(other) is type(value):
                continue  # Other values of the right type have their own tests.
            sample.refuses(msgpack.packb([*values[:position], other, *values[position + 1 :]]))
        as_text = msgpack.packb([*values[:position], "x" * 32, *values[position + 1 :]])
        sample.refuses(as_text)


@each_message
@pytest.mark.parametrize("version", [0, 2, 127, 128, 255, 2**32, 2**64 - 1])
def test_another_version_is_refused(sample, version):
    sample.refuses(msgpack.packb([version, *sample.items[1:]]), "version")


@each_message
@pytest.mark.parametrize("code", [0, 10, 127, 128, 255, 2**64 - 1])
def test_an_unknown_type_is_refused(sample, code):
    version, _, *rest = sample.items
    sample.refuses(msgpack.packb([version, code, *rest]), "type")


@each_message
def test_a_message_of_the_other_direction_is_refused(sample):
    wrong_way = CLIENT_MESSAGES[0] if sample.kind in SERVER_MESSAGES else SERVER_MESSAGES[0]
    refused(sample.data, wrong_way, "not known in this direction", sample.params)


@each_message
def test_the_fields_of_another_type_are_refused(sample):
    version, _, *rest = sample.items
    for other in sample.siblings:
        sample.refuses(msgpack.packb([version, TYPE_CODES[other], *rest]))


@each_message
@pytest.mark.parametrize("change", [-1, 1])
def test_a_byte_string_of_another_length_is_refused(sample, change):
    values = sample.items
    for position, value in enumerate(values):
        if type(value) is bytes and (value or change > 0):
            other = value[:-1] if change < 0 else value + b"\0"
            sample.refuses(msgpack.packb([*values[:position], other, *values[position + 1 :]]))


@each_message
def test_other_counts_of_flags_are_refused(sample):
    """Counts that need another number of bytes, exceed the limit, or leave padding that is not zero."""
    values = sample.items
    for position, value in enumerate(values[3:], start=3):
        if type(value) is int:
            for count in (0, value + 1, 8, 9, 255, 256, 2**16, 2**32, 2**64 - 1):
                sample.refuses(msgpack.packb([*values[:position], count, *values[position + 1 :]]))


LIMITED = [
    ("client ids", lambda count: PeerKeys(bytes(32), tuple(range(count)), bytes(32 * count), bytes(32 * count)), 5),
    ("encrypted shares up", lambda count: ShareKeys(bytes(32), bytes(32), bytes(52 * count)), 4),
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
    """Five clients: the largest list, and one client more; vectors are long, so that the total size does not decide."""
    params = make_params(5, 3, vector_length=1000)
    at_most = build(limit)
    assert decode(encode(at_most, params), type(at_most), params) == at_most
    refused(encode(build(limit + 1), params), type(at_most), "at most", params)


def test_ids_must_ascend():
    values = items(PeerKeys)
    for ids in [(3, 17, 17, 40, 50), (17, 3, 20, 40, 50), (1, 2, 3, 5, 4), (0, 0, 0, 0, 0)]:
        values[3] = reference.id_bytes(*ids)
        refused(msgpack.packb(values), PeerKeys, "ascending")


@pytest.mark.parametrize(
    "kind", [PeerShares, SurvivorList, UnmaskingShares, ConsistencyProof], ids=lambda kind: kind.__name__
)
def test_padding_of_flags_must_be_zero(kind):
    sample = Sample(kind, MALICIOUS)
    values = sample.items
    for bit in (5, 6, 7):
        flags = bytes([values[4][0] | 1 << bit])
        sample.refuses(msgpack.packb([*values[:4], flags, *values[5:]]), "padding")


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
    for kind, at in ((UnmaskingShares, 5), (UnmaskingShares, 7), (ShareKeys, 6)):
        values = msgpack.unpackb(encode(NOISY.message(kind, ALICE), NOISY.params))
        for position in (0, len(values[at]) - 2):
            forged = values[at][:position] + limb.to_bytes(2, "big") + values[at][position + 2 :]
            refused(msgpack.packb([*values[:at], forged, *values[at + 1 :]]), kind, "field", NOISY.params)


@pytest.mark.parametrize(("kind", "at", "unit"), [(ShareKeys, 5, 32), (ShareKeys, 6, 18), (UnmaskingShares, 7, 18)])
def test_what_noise_components_need_is_bounded_by_the_parameters(kind, at, unit):
    values = msgpack.unpackb(encode(NOISY.message(kind, ALICE), NOISY.params))
    most = {(ShareKeys, 5): 3, (ShareKeys, 6): 3 * 3, (UnmaskingShares, 7): 3 * 5}[kind, at]
    for size in (unit * most + unit, unit * most - 1, unit * (most + 1000)):
        refused(msgpack.packb([*values[:at], bytes(size), *values[at + 1 :]]), kind, None, NOISY.params)
    decode(msgpack.packb([*values[:at], bytes(unit * most), *values[at + 1 :]]), kind, NOISY.params)
    # Without components the fields are empty.
    values = items(kind)
    refused(msgpack.packb([*values[:at], bytes(unit), *values[at + 1 :]]), kind)


def test_pairwise_keys_are_whole_and_of_no_more_peers_than_there_are():
    *values, pairwise_keys, noise_pads = items(UnmaskingShares)
    assert len(pairwise_keys) == 16
    refused(msgpack.packb([*values, pairwise_keys[:-1], noise_pads]), UnmaskingShares, "pairwise keys: 15 bytes")
    refused(
        msgpack.packb([*values, bytes(16 * 5), noise_pads]), UnmaskingShares, "pairwise keys: 5 items, but at most 4"
    )


def test_pairwise_keys_are_refused_in_a_signed_mode_on_a_sparse_graph():
    message = sparse_script().message(UnmaskingShares, ALICE)
    forged = encode(replace(message, pairwise_keys=bytes(16)), SPARSE_PARAMS)
    with pytest.raises(CodecError, match="pairwise keys: 1 items, but at most 0"):
        decode_client_message(forged, SPARSE_PARAMS)


# --- One encoding only -----------------------------------------------------------------------------------------------


def forms_of_int(value: int) -> list[bytes]:
    """Return every form in which msgpack could write the number, the shortest first."""
    sizes = [1, 2, 4, 8]
    forms = [bytes([value])] if value < 128 else []
    for head, limit in [(0xCC, 256), (0xD0, 128)]:  # Unsigned, then signed.
        for power, size in enumerate(sizes):
            if value < limit * 256 ** (size - 1):
                forms.append(bytes([head + power]) + value.to_bytes(size, "big"))
    return forms


def forms_of_bytes(value: bytes) -> list[bytes]:
    """Return every form in which msgpack could write the bytes, the shortest first; then as text."""
    sizes = [(0xC4, 1), (0xC5, 2), (0xC6, 4)]
    forms = [bytes([head]) + len(value).to_bytes(size, "big") + value for head, size in sizes if len(value) < 256**size]
    texts = [(0xD9, 1), (0xDA, 2), (0xDB, 4)]
    forms += [
        bytes([head]) + len(value).to_bytes(size, "big") + value for head, size in texts if len(value) < 256**size
    ]
    return forms


@each_message
def test_only_the_shortest_form_of_each_value_is_a_message(sample):
    values = sample.items
    forms = [forms_of_int(value) if type(value) is int else forms_of_bytes(value) for value in values]
    head = bytes([0x90 + len(values)])
    shortest = [form[0] for form in forms]
    assert head + b"".join(shortest) == sample.data
    for position, others in enumerate(forms):
        assert len(others) > 1
        for other in others[1:]:
            data = head + b"".join([*shortest[:position], other, *shortest[position + 1 :]])
            sample.refuses(data)
    for long_head in (b"\xdc" + len(values).to_bytes(2, "big"), b"\xdd" + len(values).to_bytes(4, "big")):
        sample.refuses(long_head + b"".join(shortest))


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
