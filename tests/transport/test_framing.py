"""Frames survive any cutting of the stream, and nothing damaged passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import FrameDecoder, FrameError, encode_frame
from transport.framing import HEADER_BYTES

payload_lists = st.lists(st.binary(max_size=200), max_size=8)


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    return [*pieces, stream[at:]]


@given(payload_lists, st.lists(st.integers(1, 50), max_size=30))
def test_payloads_come_out_whole_for_any_cutting_of_the_stream(payloads: list[bytes], sizes: list[int]) -> None:
    decoder = FrameDecoder(max_payload=200)
    stream = b"".join(map(encode_frame, payloads))
    received = [payload for piece in cut(stream, sizes) for payload in decoder.feed(piece)]
    assert received == payloads
    assert not decoder.incomplete


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_flipped_bit_in_the_payload_or_its_checksum_is_found(payload: bytes, data: st.DataObject) -> None:
    frame = bytearray(encode_frame(payload))
    position = data.draw(st.integers(4, len(frame) - 1))
    frame[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FrameError, match="checksum"):
        FrameDecoder(max_payload=200).feed(bytes(frame))


def test_a_frame_that_announces_too_much_is_refused_by_its_header_alone() -> None:
    decoder = FrameDecoder(max_payload=10)
    assert decoder.feed(encode_frame(bytes(10))) == [bytes(10)]
    with pytest.raises(FrameError, match="announces 11 bytes, but at most 10"):
        decoder.feed(encode_frame(bytes(11))[:HEADER_BYTES])


def test_nothing_is_read_after_damage() -> None:
    decoder = FrameDecoder(max_payload=10)
    damaged = encode_frame(b"x")[:-1] + b"y"
    with pytest.raises(FrameError):
        decoder.feed(damaged)
    with pytest.raises(FrameError, match="checksum"):
        decoder.feed(encode_frame(b"ok"))


def test_whole_payloads_before_the_damage_are_not_lost() -> None:
    decoder = FrameDecoder(max_payload=10)
    damaged = encode_frame(b"x")[:-1] + b"y"
    assert decoder.feed(encode_frame(b"one") + encode_frame(b"two") + damaged) == [b"one", b"two"]
    assert "checksum" in decoder.broken
    with pytest.raises(FrameError, match="checksum"):
        decoder.feed(b"")


@given(st.binary(max_size=100), st.data())
def test_a_stream_that_ends_within_a_frame_is_known_to_be_incomplete(payload: bytes, data: st.DataObject) -> None:
    frame = encode_frame(payload)
    decoder = FrameDecoder(max_payload=200)
    assert decoder.feed(frame[: data.draw(st.integers(1, len(frame) - 1))]) == []
    assert decoder.incomplete


@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 300_000])
def test_a_message_in_pieces_travels_as_one_payload(size: int) -> None:
    pieces = (b"head", memoryview(bytes(range(256)) * (size // 256 + 1))[:size])
    decoder = FrameDecoder(max_payload=400_000)
    frame = encode_frame(pieces)
    assert frame == encode_frame(b"".join(pieces))
    assert decoder.feed(frame + encode_frame(b"next")) == [b"".join(pieces), b"next"]


def test_payloads_keep_their_bytes_when_more_is_fed() -> None:
    decoder = FrameDecoder(max_payload=400_000)
    first, second = bytes(200_000), bytes([1]) * 200_000
    (held,) = decoder.feed(encode_frame(first))
    decoder.feed(encode_frame(second))
    assert held == first
    assert held.readonly
