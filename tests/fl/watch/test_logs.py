"""Logs: one line for each event, for people and for machines, without secret values."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime

import pytest

from fl.watch import Watch, configure_logging
from tests.fl.watch.sessions import run_session
from tests.support.sessions import make_params, random_inputs


@pytest.fixture(autouse=True)
def root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_json_has_time_level_logger_message_and_fields(capsys) -> None:
    configure_logging(json=True)
    logging.getLogger("a.b").warning(
        "two\nlines: %s", "ü", extra={"event": "refused", "client_id": None, "time": 3, "rate": float("inf")}
    )
    (line,) = lines(capsys)
    entry = json.loads(line)
    assert datetime.fromisoformat(entry.pop("time")).tzinfo is not None
    assert entry == {
        "level": "WARNING", "logger": "a.b", "message": "two\nlines: ü",
        "event": "refused", "client_id": None, "extra_time": 3, "rate": None,
    }  # fmt: skip


def test_private_fields_of_frameworks_are_left_out(capsys) -> None:
    configure_logging(json=True, level="INFO")
    logging.getLogger("transport.tcp").info("x", extra={"event": "watching", "_ray_timestamp_ns": 7})
    assert "_ray_timestamp_ns" not in json.loads(capsys.readouterr().err)


def test_objects_are_named_and_not_shown(capsys) -> None:
    configure_logging(json=True)
    logging.getLogger().warning("x", extra={"key": b"secret", "path": {"a": (1, object())}})
    entry = json.loads(lines(capsys)[0])
    assert (entry["key"], entry["path"]) == ("<bytes>", {"a": [1, "<object>"]})


def test_an_exception_stays_on_the_line(capsys) -> None:
    configure_logging(json=True)
    try:
        int("no number")
    except ValueError:
        logging.getLogger().exception("failed")
    (line,) = lines(capsys)
    assert json.loads(line)["exception"].endswith("'no number'")


def test_any_text_of_a_peer_is_one_line(capsys) -> None:
    configure_logging(level="debug")
    logging.getLogger("x").debug("peer says %s", "a\n2026-01-01 ERROR forged\x1b[2J")
    (line,) = lines(capsys)
    assert re.fullmatch(r"\S+Z DEBUG   x: peer says a\\n2026-01-01 ERROR forged\\x1b\[2J", line)


def test_configuring_again_replaces(capsys) -> None:
    configure_logging(level="INFO")
    configure_logging(json=True, level="ERROR")
    logging.getLogger().warning("unheard")
    logging.getLogger().error("heard")
    assert [json.loads(line)["message"] for line in lines(capsys)] == ["heard"]
    with pytest.raises(ValueError, match="level"):
        configure_logging(level="loud")


@pytest.mark.live
def test_a_refusal_is_one_line_and_no_input_is_ever_written(capsys) -> None:
    configure_logging(json=True, level="DEBUG")

    async def send_garbage(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\xff" * 64)
        await reader.read()
        writer.close()
        await writer.wait_closed()

    run_session(Watch("digits", total_rounds=1), during=send_garbage)
    written = lines(capsys)
    entries = [json.loads(line) for line in written]
    refusals = [entry for entry in entries if entry.get("event") == "refused" and entry["reason"] == "bad-frame"]
    assert [(entry["logger"], entry["level"], entry["peer"]) for entry in refusals] == [
        ("transport.tcp", "WARNING", "127.0.0.1")
    ]
    vectors = random_inputs(make_params(5, 3), seed=0).values()
    everything = "\n".join(written)
    for vector in vectors:
        assert ", ".join(map(str, vector[:3].tolist())) not in everything
        assert vector.tobytes().hex() not in everything
