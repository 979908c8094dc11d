"""Encoded messages of every type in both modes, and decoders for what the tests make of them."""

from dataclasses import dataclass
from functools import cache

import msgpack
import pytest

from secagg import Adversary, CodecError, Parameters, decode_client_message, decode_server_message, encode
from secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    ConsistencyProof,
    MaskedInput,
    PeerKeys,
    PeerShares,
    ServerMessage,
    ShareKeys,
    SurvivorList,
    UnmaskingShares,
)
from tests.secagg.machines import ALICE, CLIENT_MESSAGES, HONEST, MODES, PARAMS, SERVER_MESSAGES, kinds_of, script

TYPE_CODES = {
    AdvertiseKeys: 1,
    PeerKeys: 2,
    ShareKeys: 3,
    PeerShares: 4,
    MaskedInput: 5,
    SurvivorList: 6,
    UnmaskingShares: 7,
    ConsistencyCheck: 8,
    ConsistencyProof: 9,
}


@dataclass(frozen=True)
class Sample:
    """A message of one type, from the recorded session of five clients in one of the modes."""

    kind: type
    mode: Adversary = HONEST

    @property
    def params(self) -> Parameters:
        return script(self.mode).params

    @property
    def message(self):
        return script(self.mode).message(self.kind, ALICE)

    @property
    def data(self) -> bytes:
        return encoded(self)

    @property
    def items(self) -> list:
        """Return the message's msgpack values: version, type, session id, fields."""
        return msgpack.unpackb(encoded(self))

    @property
    def siblings(self) -> tuple[type, ...]:
        """Return the other types of the same direction, including those that this mode lacks."""
        same_way = SERVER_MESSAGES if self.kind in SERVER_MESSAGES else CLIENT_MESSAGES
        return tuple(kind for kind in same_way if kind is not self.kind)

    def refuses(self, data, match=None) -> None:
        refused(data, self.kind, match, self.params)

    def __str__(self) -> str:
        return f"{self.kind.__name__} ({self.mode.value})"


SAMPLES = [Sample(kind, mode) for mode in MODES for kind in kinds_of(mode)]

each_message = pytest.mark.parametrize("sample", SAMPLES, ids=str)


def decode(data, kind, params=PARAMS):
    decoder = decode_server_message if issubclass(kind, ServerMessage) else decode_client_message
    return decoder(data, params)


@cache
def encoded(sample: Sample) -> bytes:
    return encode(sample.message, sample.params)


def items(kind: type) -> list:
    return Sample(kind).items


def refused(data, kind, match=None, params=PARAMS) -> None:
    with pytest.raises(CodecError, match=match):
        decode(data, kind, params)


def flag_bytes(flags) -> bytes:
    return sum(flag << place for place, flag in enumerate(flags)).to_bytes((len(flags) + 7) // 8, "little")
