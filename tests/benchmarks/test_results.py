"""The results file: partial runs are merged, and results from elsewhere are marked."""

import getpass
import json
import os
import socket
from pathlib import Path

import pytest

from benchmarks import machine, results

REPOSITORY = Path(results.__file__).parents[1]


def entry(name="add", group="micro", value=0.5, **params):
    ratio = {"value": value, "of": "speed over raw", "goal": None, "higher_is_better": True}
    seconds = {"median": 1.0, "min": 1.0, "max": 1.0, "rounds": 1}
    return {"group": group, "name": name, "params": params, "seconds": seconds, "ratio": ratio}


def document(entries, *, mode="full", commit="abc1234", created="2026-01-01T00:00:00+00:00", cpu="A"):
    return {
        "format": results.FORMAT,
        "mode": mode,
        "created": created,
        "version": "1.0",
        "commit": commit,
        "machine": {"cpu": cpu},
        "results": list(entries),
    }


def test_a_partial_run_replaces_what_it_measured_and_keeps_the_rest():
    old = document([entry(bits=16), entry(bits=32)])
    merged = results.merge(old, document([entry(bits=32, value=0.9)], created="2026-01-02T00:00:00+00:00"))
    assert [(e["params"], e["ratio"]["value"]) for e in merged["results"]] == [({"bits": 16}, 0.5), ({"bits": 32}, 0.9)]
    assert merged["created"] == "2026-01-02T00:00:00+00:00"


def test_equal_parameters_in_another_order_are_one_measurement():
    merged = results.merge(document([entry(a=1, b=2)]), document([entry(b=2, a=1)]))
    assert len(merged["results"]) == 1


def test_groups_keep_their_order():
    old = document([entry(group="micro"), entry("peer", "peers")])
    merged = results.merge(old, document([entry("server", "figure8")]))
    assert [e["group"] for e in merged["results"]] == ["micro", "figure8", "peers"]


def test_entries_of_this_commit_and_machine_are_not_marked():
    merged = results.merge(document([entry(bits=16)]), document([entry(bits=32)]))
    assert all("from" not in e for e in merged["results"])


@pytest.mark.parametrize(
    ("there", "mark"),
    [
        ({"commit": "0ther00"}, {"commit": "0ther00"}),
        ({"cpu": "B"}, {"commit": "abc1234", "machine": {"cpu": "B"}}),
        ({"commit": None}, {"commit": None}),
    ],
)
def test_entries_from_elsewhere_are_marked(there, mark):
    merged = results.merge(document([entry(bits=16)], **there), document([entry(bits=32)]))
    kept, new = merged["results"]
    assert kept["from"] == {"created": "2026-01-01T00:00:00+00:00", **mark}
    assert "from" not in new


def test_uncommitted_changes_may_be_others_each_time():
    changed = document([entry(bits=16)], commit="abc1234+")
    merged = results.merge(changed, document([entry(bits=32)], commit="abc1234+"))
    assert merged["results"][0]["from"]["commit"] == "abc1234+"


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        ({"goal": None}, None),
        ({"goal": 0.5}, True),
        ({"goal": 0.6}, False),
        ({"goal": 0.6, "higher_is_better": False}, True),
    ],
)
def test_a_goal_is_reached_from_its_side(ratio, verdict):
    found = entry(value=0.5)
    found["ratio"] |= ratio
    assert results.reached(found) is verdict


def test_a_mark_stays_what_it_was():
    first = results.merge(document([entry(bits=16)], commit="0000001"), document([entry(bits=32)], commit="0000002"))
    second = results.merge(first, document([entry(bits=64)], commit="0000003"))
    assert [e.get("from", {}).get("commit") for e in second["results"]] == ["0000001", "0000002", None]


def test_modes_and_formats_are_not_mixed():
    new = document([entry(bits=32)])
    assert results.merge(document([entry(bits=16)], mode="quick"), new) == new
    assert results.merge({**document([entry(bits=16)]), "format": 0}, new) == new
    assert results.merge(None, new) == new


@pytest.mark.parametrize(
    "broken",
    [
        {"group": "others"},
        {"ratio": {"value": 1.0}},
        {"facts": {1, 2}},
        {"ratio": {"value": float("nan"), "of": "", "goal": None, "higher_is_better": True}},
    ],
)
def test_an_entry_that_breaks_the_format_is_refused(broken):
    with pytest.raises((TypeError, ValueError)):
        results.checked({**entry(), **broken})


def test_a_document_survives_the_file(tmp_path):
    path = tmp_path / "full.json"
    assert results.read(path) is None
    results.write(path, document([entry(bits=16)]))
    assert results.read(path) == document([entry(bits=16)])
    assert os.listdir(tmp_path) == ["full.json"]


def run_of(mode, benchmarks):
    """Return a run as `pytest --benchmark-json` writes it, with the hooks of benchmarks/conftest.py."""
    return {
        "mode": mode,
        "datetime": "2026-01-01T00:00:00.123456+00:00",
        "machine_info": machine.describe(),
        "benchmarks": benchmarks,
    }


def test_a_run_gives_its_benchmarks_and_their_rows():
    stats = {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": 5, "mean": 2.1}
    plain = {"group": "micro", "name": "bench_mask[32]", "params": {"bits": 32}, "stats": stats, "extra_info": {}}
    named = {**plain, "extra_info": {**entry("add", bits=8), "rows": [entry("sub", bits=16)]}}
    document = results.of_run(run_of("quick", [plain, named]))
    assert document["created"] == "2026-01-01T00:00:00+00:00"
    assert [(e["name"], e["params"]) for e in document["results"]] == [
        ("mask", {"bits": 32}),
        ("add", {"bits": 8}),
        ("sub", {"bits": 16}),
    ]
    assert document["results"][0]["seconds"] == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": 5}


def test_the_head_names_the_machine_by_its_kind_alone():
    head = results.of_run(run_of("quick", []))
    text = json.dumps(head)
    assert head["machine"]["cores"] >= 1
    assert set(head["machine"]["cpu_flags"]) <= {"aes", "vaes", "avx2", "avx512f"}
    # A short user name such as "root" may be part of a word; a host's name or a path may not.
    for private in (socket.gethostname(), str(Path.home()), str(REPOSITORY), os.getcwd()):
        assert private not in text
    assert getpass.getuser() not in head["machine"].values()


def test_without_git_there_is_no_commit(tmp_path):
    assert machine.commit(tmp_path) is None
