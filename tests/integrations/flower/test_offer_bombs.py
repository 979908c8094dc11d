"""Offers that are small on the wire and large in memory."""

import tracemalloc

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has an environment of its own: make test-flower")

from fl.integrations.flower.errors import OfferError
from fl.integrations.flower.offer import Offer


def test_an_offer_of_maps_is_refused_before_they_are_made() -> None:
    bomb = b"\x95\x01\xdd" + (1 << 22).to_bytes(4, "big") + b"\x80" * (1 << 22)
    tracemalloc.start()
    try:
        with pytest.raises(OfferError, match="no offer"):
            Offer.from_bytes(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
