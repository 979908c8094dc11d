"""Data taken from a message: a digest that no two contents share, and a reason that can be shown."""

from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="needs Flower, which has its own environment: make test-flower")

from fl.integrations.flower._flwr import Array, ArrayRecord, RecordDict
from fl.integrations.flower.content import content_digest
from fl.integrations.flower.session import _reason
from secagg import Round


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
        # The end of one field could be the beginning of the next.
        {"dtype": "a|b", "stype": "c"},
        {"dtype": "a", "stype": "b|c"},
        {"dtype": "ab", "stype": "c"},
        {"dtype": "a", "stype": "bc"},
    ]
    assert len({digest(**changes) for changes in others}) == len(others)


def test_a_nodes_reason_is_one_line_that_can_be_shown():
    def reason(text):
        reply = SimpleNamespace(error=SimpleNamespace(code=2, reason=text), has_error=lambda: True)
        return _reason(reply, Round.SHARE_KEYS)

    assert reason("the node is tired\nof it") == "the node is tired of it"
    assert reason("\x1b[2J\u202etired") == "\\x1b[2J\\u202etired"
    assert len(reason("x" * 10**6)) == 400
    assert reason("") == "error 2"
