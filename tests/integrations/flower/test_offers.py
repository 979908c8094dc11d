"""Offers: those that survive encoding, invalid ones, and those that are small on the wire and large in memory."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from fl.aggregation.scales import Scales
from fl.integrations.flower.errors import OfferError
from fl.integrations.flower.offer import MOST_ARRAYS, RoundOffer
from fl.integrations.records import RecordEncoding
from tests.support.sessions import make_params

BOUNDS = Scales((0.25, 0.0, 1e4), 512)


def offer(scales: Scales | None = BOUNDS) -> RoundOffer:
    encoding = RecordEncoding(
        sizes=(6, 0, 3), num_clients=5, scales=scales, weight="num-examples", value_bits=24, max_metrics=2,
        metric_bound=8.0,
    )  # fmt: skip
    params = make_params(vector_length=encoding.vector_length, value_bits=24)
    return RoundOffer(params, encoding, b"nonce", b"content", b"run")


@pytest.mark.parametrize("scales", [BOUNDS, None])
def test_offers_come_back_from_bytes(scales: Scales | None) -> None:
    one = offer(scales)
    assert RoundOffer.from_bytes(one.to_bytes()) == one
    assert RoundOffer.from_bytes(one.to_bytes()).measures == (scales is None)


def test_the_bounds_are_bound_into_the_session() -> None:
    """Clients with different bounds share no masks; but they are asked the same."""
    one = offer()
    others = [offer(None), offer(replace(BOUNDS, max_weight=513)), offer(replace(BOUNDS, bounds=(0.25, 0.0, 2e4)))]
    assert len({other.context for other in [one, *others]}) == 4
    assert {other.asked for other in [one, *others]} == {one.asked}


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    fields = msgpack.unpackb(offer().to_bytes())
    change(fields[2])
    return bytes(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (None, "not an offer"),
        ({"threshold": 2}, "not an offer"),
        (b"", "29 bytes"),
        (b"\xff" * 29, "canonical"),
        (bytes(29), "num_clients is 0"),
    ],
)
def test_impossible_parameters_are_refused(params: Any, text: str) -> None:
    fields = msgpack.unpackb(offer().to_bytes())
    fields[1] = params
    with pytest.raises(OfferError, match=text):
        RoundOffer.from_bytes(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda encoding: encoding["sizes"].append(0), "3 clipping bounds for 4 tensors"),
        (lambda encoding: encoding["sizes"].append(True), "whole numbers"),
        (lambda encoding: encoding["sizes"].insert(0, -1), "has impossible numbers"),
        (lambda encoding: encoding["sizes"].reverse(), None),
        (lambda encoding: encoding.update(sizes=[7, 0, 3]), "vector length does not fit the offered encoding"),
        (lambda encoding: encoding.update(sizes=[1 << 62, 0, 3]), "vector length does not fit the offered encoding"),
        (lambda encoding: encoding.update(sizes=[0] * (MOST_ARRAYS + 1)), f"at most {MOST_ARRAYS} whole numbers"),
        (lambda encoding: encoding.update(scales=[]), "vector length does not fit the offered encoding"),
        (lambda encoding: encoding.update(scales=[[0.25, 0.0, 1e4]]), "scales in the offer must be"),
        (lambda encoding: encoding["scales"][0].pop(), "2 clipping bounds for 3 tensors"),
        (lambda encoding: encoding["scales"][0].__setitem__(0, 1), "scales in the offer must be"),
        (lambda encoding: encoding["scales"][0].__setitem__(0, float("nan")), "has impossible numbers"),
        (lambda encoding: encoding["scales"][0].__setitem__(0, 1e-30), "has impossible numbers"),
        (lambda encoding: encoding["scales"].__setitem__(1, 0), "has impossible numbers"),
        (lambda encoding: encoding["scales"].__setitem__(1, 1 << 33), "has impossible numbers"),
        (lambda encoding: encoding["scales"].__setitem__(1, 512.0), "scales in the offer must be"),
        (lambda encoding: encoding.update(clip=1.0), "the fields of the offer are not those"),
    ],
)
def test_impossible_offers_are_refused(change: Callable[[dict[str, Any]], None], text: str | None) -> None:
    data = changed(change)
    if text is None:
        # Another order of sizes is another session; clients find that it does not match their arrays.
        assert RoundOffer.from_bytes(data).encoding.sizes == (3, 0, 6)
        return
    with pytest.raises(OfferError, match=text):
        RoundOffer.from_bytes(data)


def test_an_offer_of_maps_is_refused_before_they_are_made() -> None:
    bomb = b"\x95\x02\xdd" + (1 << 22).to_bytes(4, "big") + b"\x80" * (1 << 22)
    tracemalloc.start()
    try:
        with pytest.raises(OfferError, match="not an offer"):
            RoundOffer.from_bytes(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
