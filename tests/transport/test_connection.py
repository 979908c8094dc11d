"""One connection's frames: their order, and which count as signs of life."""

import asyncio

import pytest

from transport.durable import frames as link
from transport.durable import pieces as _pieces
from transport.framing import FrameDecoder
from transport.tcp.connection import PING, Connection, CutOffError
from transport.tcp.settings import Limits


class SilentStream:
    """A stream that accepts all bytes and sends nothing; the other side reads only the first ``taken`` times."""

    def __init__(self, taken: int = 0) -> None:
        self.sent = bytearray()
        self._taken = taken
        self._taken_at = float("-inf")

    @property
    def taken_at(self) -> float:
        if self._taken:
            self._taken -= 1
            self._taken_at = asyncio.get_running_loop().time()
        return self._taken_at

    @property
    def has_stopped(self) -> bool:
        return not self._taken

    async def receive(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, pieces) -> None:
        for piece in pieces:
            self.sent += piece


def test_control_frames_wait_behind_no_piece() -> None:
    async def scenario() -> list[int]:
        stream = SilentStream()
        connection = Connection(stream, Limits(), patient=True)
        for number in range(5):
            connection.send(link.encode(_pieces.Piece(number, b"x" * _pieces.PIECE_BYTES)))
        for frame in (link.Ping(), link.Pong(), _pieces.Want(bytes(32), 0, 0)):
            connection.send(link.encode(frame))
        connection.finish()
        await connection.write()
        return [payload[0] for payload in FrameDecoder(link.MAX_PAYLOAD_BYTES).feed(bytes(stream.sent))]

    kinds = asyncio.run(scenario())
    assert sorted(kinds[:3]) == [7, 8, 13]
    assert kinds[3:] == [14] * 5


def test_a_reading_peer_is_alive_and_one_that_stops_is_cut_off() -> None:
    """While the other side reads waiting bytes, no question is sent; a PING that goes out is not a sign of life."""

    async def scenario() -> tuple[bool, int]:
        stream = SilentStream(taken=5)
        connection = Connection(stream, Limits(idle_seconds=0.02, answer_seconds=0.02), patient=True)
        asked_while_taking = []
        send = connection.send

        def noting(parts, *, last=False):
            asked_while_taking.append(not stream.has_stopped)
            send(parts, last=last)

        connection.send = noting
        writing = asyncio.create_task(connection.write())
        with pytest.raises(CutOffError, match="no answer"):
            await anext(connection.frames())
        writing.cancel()
        assert bytes(stream.sent).count(PING) >= 1
        return any(asked_while_taking), len(asked_while_taking)

    assert asyncio.run(scenario()) == (False, 1)
