"""A checkpoint holds the clients of all rounds, and its size does not grow with their number."""

import base64
import json
import random
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch

from fl.errors import ConfigError
from fl.runs import checkpoint
from fl.runs.checkpoint import RunFolder
from fl.runs.records import RoundRecord
from fl.runs.rounds import FederatedRun
from tests.fl.runs import tiny_config, tiny_dataset
from tests.fl.stored_runs import metadata_of, rewrite
from tests.fl.test_report import make_record

CLIENTS, ROUNDS = 2_000, 60


@pytest.fixture
def run() -> FederatedRun:
    return FederatedRun(tiny_config(), tiny_dataset(), "secure")


def records(included: Any) -> list[RoundRecord]:
    return [make_record(number, included=included(number)) for number in range(1, ROUNDS + 1)]


def half_of(number: int) -> tuple[int, ...]:
    return tuple(sorted(random.Random(number).sample(range(CLIENTS), CLIENTS // 2)))


@pytest.mark.parametrize(
    ("included", "bytes_a_client"),
    [(half_of, 1.0), (lambda _: tuple(range(CLIENTS)), 0.1), (lambda n: tuple(range(2**32 - n - 100, 2**32 - n)), 0.1)],
    ids=["half", "all", "the last ids there are"],
)
def test_the_clients_of_all_rounds_take_little_room(
    run: FederatedRun, tmp_path: Path, included: Any, bytes_a_client: float
) -> None:
    folder, saved = RunFolder(tmp_path), records(included)
    folder.save(run.config, [run], [])
    empty = (tmp_path / "checkpoint.safetensors").stat().st_size
    folder.save(run.config, [run], saved)
    a_round = ((tmp_path / "checkpoint.safetensors").stat().st_size - empty) / ROUNDS
    assert a_round < 1_000 + bytes_a_client * CLIENTS
    assert RunFolder(tmp_path).restore([run], 0) == saved
    # Metrics are for people and other programs: there the lists are written out.
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert tuple(line["included"]) == saved[-1].included


@pytest.mark.parametrize("number", [0, 1, 64, 65])
def test_short_lists_stay_lists(run: FederatedRun, tmp_path: Path, number: int) -> None:
    saved = [make_record(1, included=tuple(range(number)))]
    RunFolder(tmp_path).save(run.config, [run], saved)
    (stored,) = json.loads(metadata_of(tmp_path)["records"])
    assert isinstance(stored["included"], list if number <= 64 else str)
    assert RunFolder(tmp_path).restore([run], 0) == saved


PACKED = base64.b64encode(zlib.compress(bytes(8 * 100))).decode()


@pytest.mark.parametrize(
    "stored",
    [
        "no Base64!",
        base64.b64encode(b"not compressed").decode(),
        PACKED[:-8],
        base64.b64encode(zlib.compress(bytes(7))).decode(),
        base64.b64encode(zlib.compress(bytes(checkpoint._MOST_BYTES + 8))).decode(),
    ],
    ids=["text", "bytes", "cut", "half a number", "bomb"],
)
def test_damaged_lists_are_refused(run: FederatedRun, tmp_path: Path, stored: str) -> None:
    folder = RunFolder(tmp_path)
    folder.save(run.config, [run], records(half_of)[:1])
    (line,) = json.loads(metadata_of(tmp_path)["records"])
    rewrite(tmp_path, records=json.dumps([{**line, "included": stored}]))
    with pytest.raises(ConfigError, match="is not a checkpoint of this program, or is damaged"):
        folder.restore([run], 0)
    rewrite(tmp_path, records=json.dumps([{**line, "included": PACKED}]))
    (record,) = folder.restore([run], 0)
    assert record == replace(record, included=(0,) * 100)


def test_lists_that_do_not_fit_are_refused_in_a_sentence(
    run: FederatedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.save(run.config, [run], [])
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def too_large(*_: Any) -> bytes:
        raise safetensors.SafetensorError("header too large")

    monkeypatch.setattr(safetensors.torch, "save", too_large)
    with pytest.raises(ConfigError, match=r"cannot write .*checkpoint\.safetensors: header too large"):
        folder.save(run.config, [run], records(half_of))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
