"""The link protocol's frames: one encoding each, bounded, and nothing else is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import Adversary, LocalProtocolError
from tests.support.sessions import make_params
from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.durable.frames import RefusalCode
from transport.errors import LinkError

PARAMS = make_params(8, 5, degree=6, vector_length=100, adversary=Adversary.SEMI_MALICIOUS)
UP = [
    link.Hello(),
    link.Hello(bytes(range(32)), 3),
    link.Message(0, b""),
    link.Message(4, b"\x00" * 300),
    link.Ping(),
    link.Pong(),
    link.Decline(),
    link.Decline("400 epochs, but this client does at most 100"),
    _pieces.Large(b"\x03\x02", 2**40, bytes(range(32))),
    _pieces.Want(bytes(range(32)), 300, 300 + _pieces.WINDOW_BYTES),
    _pieces.Piece(70_000, b"body"),
]
DOWN = [
    link.Offer(PARAMS, b"nonce", b"x" * 300, 2**40),
    link.Offer(make_params(modular=True)),
    link.Message(3, b"body"),
    link.Ack(0),
    link.End(link.EndCode.COMPLETED, 200),
    link.End(link.EndCode.TOO_FEW_SHARES, 0, "aborted: über"),
    *[link.Refused(code, "why") for code in RefusalCode],
    link.Ping(),
    link.Pong(),
    link.Waiting(3, 5),
    link.Waiting(2**32),
    link.Refused(RefusalCode.BUSY, "why", link.MAX_RETRY_AFTER),
    _pieces.Large(b"\x02" + bytes(399), 1, bytes(32)),
    _pieces.Want(bytes(32), 0, 0),
    _pieces.Piece(0, b"\x00" * _pieces.PIECE_BYTES),
]
FRAMES = [(link.decode_client_frame, frame) for frame in UP] + [(link.decode_server_frame, frame) for frame in DOWN]


def payload_of(frame) -> bytes:
    return b"".join(link.encode(frame))


def is_of_others(hello: link.Hello) -> bool:
    """Return whether the frame says that it may hold more than is read here."""
    return hello.version > link.LINK_VERSION or link.refused_version(hello) is not None


@pytest.mark.parametrize(("decode", "frame"), FRAMES)
def test_frames_come_back_as_they_were(decode, frame) -> None:
    assert decode(payload_of(frame)) == frame
    assert decode(memoryview(payload_of(frame))) == frame


@pytest.mark.parametrize(
    ("decode", "frame"), [pair for pair in FRAMES if not isinstance(pair[1], link.Message | _pieces.Piece)]
)
def test_frames_that_are_cut_short_or_too_long_are_refused(decode, frame) -> None:
    payload = payload_of(frame)
    for size in range(len(payload)):
        with pytest.raises(LinkError):
            decode(payload[:size])
    with pytest.raises(LinkError):
        decode(payload + b"\x00")


@given(st.binary(max_size=80))
def test_bytes_are_refused_or_are_the_one_encoding_of_a_frame(data: bytes) -> None:
    for decode in (link.decode_client_frame, link.decode_server_frame, link.decode_identify):
        try:
            frame = decode(data)
        except LinkError:
            continue
        if not (isinstance(frame, link.Hello) and is_of_others(frame)):
            assert payload_of(frame) == data


@given(st.sampled_from(FRAMES), st.data())
def test_a_changed_frame_is_refused_or_the_one_encoding_of_another(pair, data) -> None:
    decode, frame = pair
    payload = bytearray(payload_of(frame))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = decode(bytes(payload))
    except LinkError:
        return
    if not (isinstance(changed, link.Hello) and is_of_others(changed)):
        assert payload_of(changed) == payload


@pytest.mark.parametrize("frame", DOWN[:2] + DOWN[3:6])
def test_a_client_sends_no_servers_frames(frame) -> None:
    with pytest.raises(LinkError, match="not one that a client sends"):
        link.decode_client_frame(payload_of(frame))


def test_a_server_sends_no_clients_frames() -> None:
    with pytest.raises(LinkError, match="not one that a server sends"):
        link.decode_server_frame(payload_of(link.Hello()))
    for decode in (link.decode_client_frame, link.decode_server_frame):
        with pytest.raises(LinkError, match="kind 9"):
            decode(payload_of(link.Identify(3)))


def test_identify_carries_any_client_id() -> None:
    assert link.decode_identify(payload_of(link.Identify(2**32 - 1))).client_id == 2**32 - 1
    with pytest.raises(LinkError, match="begins with IDENTIFY"):
        link.decode_identify(payload_of(link.Hello()))


def test_a_hello_of_other_versions_is_read_no_further() -> None:
    assert link.decode_client_frame(b"\x01\x63\x62whatever they have") == link.Hello(version=99, oldest=98)
    assert link.decode_client_frame(b"\x01\x00\x00whatever they have") == link.Hello(version=0, oldest=0)
    with pytest.raises(LinkError, match="oldest link version"):
        link.decode_client_frame(b"\x01\x02\x03")


@pytest.mark.parametrize(
    ("oldest", "newest", "code", "said"),
    [
        (1, 4, None, ""),
        (5, 9, None, ""),
        (2, 9, None, ""),
        (4, 4, None, ""),
        (1, 2, RefusalCode.BAD_VERSION, "link version 2, but this server needs 3: upgrade the client"),
        (6, 6, RefusalCode.OLDER_SERVER, "this server speaks link versions up to 5, and the client needs 6"),
    ],
)
def test_a_client_fits_if_both_sides_share_a_version(
    monkeypatch, oldest: int, newest: int, code: RefusalCode | None, said: str
) -> None:
    """As in a later version, which speaks 3 to 5. A newer client's other fields are ignored."""
    hello = link.Hello(bytes(32), 2, newest, oldest)
    payload = payload_of(hello) + (b"more" if newest > 5 else b"")
    monkeypatch.setattr(link, "LINK_VERSION", 5)
    monkeypatch.setattr(link, "OLDEST_LINK_VERSION", 3)
    read = link.decode_client_frame(payload)
    assert isinstance(read, link.Hello)
    refused = link.refused_version(read)
    assert refused == (None if code is None else link.Refused(code, said))
    assert read == (hello if code is None else link.Hello(version=newest, oldest=oldest))


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\x01\x02\x02\xc4\x01a\x00", "32 bytes"),
        (b"\x01\x02\x02\xc4\x00\x01", "names no session"),
        (b"\x01\x02\x02\xc4\x21" + bytes(33), "above 32"),
        (b"\x01\xcc\x02\x02\xc4\x00\x00", "shortest"),
        (b"\x01\x02\x02\xc5\x00\x00\x00", "shortest"),
        (b"\x01\x02\x02\xa0\x00", "is not a byte string"),
        (b"\x01\xff\xc4\x00\x00", "is not an unsigned integer"),
        (b"\x03\x10", "above 15"),
        (b"\x03", "cut short"),
        (b"\x0c\xc4\x00\x01\xc4\x20" + bytes(32), "announces no bytes"),
        (b"\x0c\xc4\x01\x03\x00\xc4\x20" + bytes(32), "announces no bytes"),
        (b"\x0c\xc4\x01\x03\x01\xc4\x1f" + bytes(31), "a digest must have 32 bytes, not 31"),
        (b"\x0c\xc4\x01\x03\xcf\x00\x00\x01\x00\x00\x00\x00\x01\xc4\x20" + bytes(32), "a size is 1099511627777"),
        (b"\x0c\xc5\x01\x91" + bytes(401) + b"\x01\xc4\x20" + bytes(32), "a head has 401 bytes, above 400"),
        (b"\x0d\xc4\x20" + bytes(32) + b"\x02\x01", "a WANT has an invalid range, 2 to 1"),
        (b"\x0d\xc4\x20" + bytes(32) + b"\x00\xce\x00\x10\x00\x01", "a WANT has an invalid range, 0 to 1048577"),
        (b"\x0e\x00", "a PIECE has an invalid length, 0 bytes"),
        (b"\x0e\x00" + bytes(_pieces.PIECE_BYTES + 1), "a PIECE has an invalid length, 65505 bytes"),
    ],
)
def test_faults_are_named(payload: bytes, why: str) -> None:
    with pytest.raises(LinkError, match=why):
        link.decode_client_frame(payload)


def test_an_offer_announces_no_more_than_the_client_takes() -> None:
    payload = payload_of(link.Offer(PARAMS, extra=b"x" * 1001))
    with pytest.raises(LinkError, match="above 1000"):
        link.decode_server_frame(payload, max_extra=1000)


def test_a_length_that_is_only_claimed_allocates_nothing() -> None:
    # 4 GiB announced in ten bytes.
    with pytest.raises(LinkError, match="above"):
        link.decode_server_frame(b"\x06\x01\xc6\xff\xff\xff\xff")


def test_an_offer_of_impossible_parameters_is_refused() -> None:
    payload = bytearray(payload_of(link.Offer(make_params())))
    payload[11] = 9  # the threshold's last byte, above the number of clients
    with pytest.raises(LinkError, match="threshold is 9"):
        link.decode_server_frame(bytes(payload))
    # The adversary's code; there are three.
    payload = bytearray(payload_of(link.Offer(make_params())))
    payload[27] = 3
    with pytest.raises(LinkError, match="canonical"):
        link.decode_server_frame(bytes(payload))


@pytest.mark.parametrize("text", ["line\nbreak", "\x1b[31mred", "x" * 1000, "ü" * 1000])
def test_texts_are_printable_and_cut(text: str) -> None:
    got = link.decode_server_frame(payload_of(link.Refused(RefusalCode.BUSY, text)))
    assert got.text.isprintable()
    assert len(got.text.encode()) <= 400
    with pytest.raises(LinkError, match="cannot be printed"):
        link.decode_server_frame(b"\x06\x01\xc4\x01\n")
    with pytest.raises(LinkError, match="UTF-8"):
        link.decode_server_frame(b"\x06\x01\xc4\x01\xff")


def test_no_refusal_asks_for_a_pause_without_end() -> None:
    for pause in (b"\xcd\x0e\x11", b"\xcf" + b"\xff" * 8):
        with pytest.raises(LinkError, match="a pause is"):
            link.decode_server_frame(b"\x06\x08\xc4\x00" + pause)


@pytest.mark.parametrize(
    "text", [b"\xc4\x01\n", b"\xc4\x01\xff", b"\xc5\x01\x91" + b"x" * 401, b"\xc6\xff\xff\xff\xff"]
)
def test_reasons_of_clients_are_short_and_printable(text: bytes) -> None:
    with pytest.raises(LinkError):
        link.decode_client_frame(b"\x0b" + text)


@pytest.mark.parametrize(
    "payload", [b"\x0a\xcf" + b"\xff" * 8 + b"\x00", b"\x0a\x01\xff", b"\x0a\xcc\x01\x00", b"\x0a\x01"]
)
def test_numbers_of_waiting_clients_are_bounded(payload: bytes) -> None:
    with pytest.raises(LinkError):
        link.decode_server_frame(payload)


@pytest.mark.parametrize("payload", [b"\x06\x00\xc4\x00", b"\x06\x0b\xc4\x00", b"\x05\x05\x00\xc4\x00"])
def test_unknown_codes_are_refused(payload: bytes) -> None:
    with pytest.raises(LinkError):
        link.decode_server_frame(payload)


def test_the_longest_frames_are_within_the_bound() -> None:
    head = payload_of(link.Offer(PARAMS, nonce=b"n" * 255, number=2**64 - 1))
    frames = [
        link.Message(15, b"x" * (_pieces.PIECE_BYTES - 2)),
        _pieces.Piece(_pieces.MAX_LARGE_BYTES, b"x" * _pieces.PIECE_BYTES),
        _pieces.Large(head, _pieces.MAX_LARGE_BYTES, bytes(32)),
    ]
    for frame in frames:
        assert len(payload_of(frame)) <= link.MAX_PAYLOAD_BYTES
        assert link.decode_server_frame(payload_of(frame)) == frame


def test_misuse_raises_where_it_happens() -> None:
    with pytest.raises(ValueError, match="between 0 and 15"):
        link.encode(link.Message(16, b""))
    with pytest.raises(LocalProtocolError, match="extra"):
        link.check_announcement("text", 0)
    with pytest.raises(LocalProtocolError, match="number"):
        link.check_announcement(b"", -1)


def test_no_body_is_shown() -> None:
    assert "secret" not in repr(link.Message(0, b"secret"))
