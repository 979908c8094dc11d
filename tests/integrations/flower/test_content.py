"""The digest of a message's content: no two contents have the same."""

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has an environment of its own: make test-flower")

from fl.integrations.flower._flwr import Array, ArrayRecord, RecordDict
from fl.integrations.flower.content import content_digest


def digest(**changes):
    fields = {"dtype": "float32", "shape": (2,), "stype": "numpy.ndarray", "data": b"12345678"} | changes
    return content_digest("train", RecordDict({"model": ArrayRecord({"weight": Array(**fields)})}))


def test_each_field_of_an_array_is_hashed_apart():
    assert digest() == digest()
    others = [
        {},
        {"dtype": "float64"},
        {"shape": (1, 2)},
        {"data": b"12345679"},
        # What one field ends with, the next may begin with.
        {"dtype": "a|b", "stype": "c"},
        {"dtype": "a", "stype": "b|c"},
        {"dtype": "ab", "stype": "c"},
        {"dtype": "a", "stype": "bc"},
    ]
    assert len({digest(**changes) for changes in others}) == len(others)
