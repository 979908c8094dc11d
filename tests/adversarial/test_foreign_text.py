"""Text of others is shown on one line in which nothing acts on the terminal; honest text stays unchanged."""

from __future__ import annotations

import asyncio
import json
import logging
import unicodedata
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

import secagg
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.config.run_config import RunConfig
from fl.errors import ConfigError, FLError
from fl.learning.models import build_model
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.network.announcement import RoundAnnouncement, encode_announcement
from fl.runs.display import TrainingDisplay
from fl.watch.logs import JsonFormatter, LineFormatter
from tests.fl.runs import command, environment, invoke
from tests.fl.stored_runs import metadata_of, rewrite, start_well
from tests.fl.test_cli_train import make_record
from transport import Deadlines, SessionHost, SessionRefusedError, TransportError
from transport.durable import frames as link
from transport.errors import MAX_ERROR_TEXT, LinkError, printable
from transport.recovery import RecoveryPool
from transport.tcp import PLAINTEXT, SessionServer

pytestmark = pytest.mark.live

# Clears the screen, sets its title, reverses the writing direction, hides, breaks the line, and is half a character.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u2066\u200b\u2028\r\nall is well\ud800\x7f\x00"


def is_harmless(text: str) -> bool:
    """Return whether no character is a control, format mark, separator other than the space, or half a character."""
    return all(unicodedata.category(character)[0] not in "CZ" or character == " " for character in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("round 3: 12 updates are in the mean", "round 3: 12 updates are in the mean"),
        ("Zürich, 北京, naïve, 100% – C:\\data [red]", "Zürich, 北京, naïve, 100% – C:\\data [red]"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 197 + "..."),
        ("\x00" * 10**6, ("\\x00" * 50)[:197] + "..."),
    ],
)
def test_text_is_made_printable(text, shown):
    assert printable(text) == shown
    assert is_harmless(printable(text))
    assert len(printable(HOSTILE, 10)) == 10


def test_errors_with_any_content_can_be_shown():
    for error in (FLError, ConfigError, TransportError, LinkError, SessionRefusedError):
        assert is_harmless(str(error(f"declined: {HOSTILE}")))
        assert len(str(error("x" * 10**6))) == MAX_ERROR_TEXT
        assert str(error("declined: 3 of 5")) == "declined: 3 of 5"


def test_texts_of_the_link_are_printable_both_ways():
    for message in (link.Refused(link.RefusalCode.BUSY, HOSTILE), link.End(link.EndCode.COMPLETED, 3, HOSTILE)):
        payload = b"".join(link.encode(message))
        assert is_harmless(link.decode_server_frame(payload, 0).text)
        # Another implementation of the server may send anything.
        for bad in ("\x1b[2J", "\u202e", "\x9b"):
            text = bad.encode()
            raw = payload[: payload.index(b"\xc4")] + bytes([0xC4, len(text)]) + text
            with pytest.raises(LinkError, match="cannot be printed"):
                link.decode_server_frame(raw, 0)


def record(message: str, *args: object) -> logging.LogRecord:
    error = ValueError(HOSTILE.replace("\n", ""))
    info = (ValueError, error, None)
    return logging.LogRecord("x", logging.WARNING, __file__, 1, message, args, info)


def test_logs_show_no_characters_that_act():
    lines = LineFormatter().format(record("node 3 left: %s", HOSTILE)).split("\n")
    assert all(map(is_harmless, lines))
    assert "all is well" in lines[0]
    assert lines[1].startswith("ValueError: ")
    line = JsonFormatter().format(record("node 3 left: %s", HOSTILE))
    assert is_harmless(line)
    assert line.isascii()
    assert json.loads(line)["message"] == f"node 3 left: {HOSTILE}"


@pytest.mark.parametrize("name", ["model", "dataset"])
def test_a_stored_runs_names_cannot_be_anything(name):
    with pytest.raises(ConfigError, match="has unprintable characters") as caught:
        RunConfig.of(**{name: f"module:{HOSTILE}"})
    assert is_harmless(str(caught.value))
    assert RunConfig.of(**{name: "my_модель:make"}).options()[name] == "my_модель:make"


def test_foreign_text_in_a_run_is_not_shown_raw(tmp_path):
    start_well(tmp_path / "run", num_rounds=1)
    assert invoke("report", tmp_path / "run").exit_code == 0
    records = json.loads(metadata_of(tmp_path / "run")["records"])
    records[0]["aborted"] = HOSTILE.replace("\ud800", "")
    rewrite(tmp_path / "run", records=json.dumps(records))
    result = invoke("report", tmp_path / "run")
    assert result.exit_code == 1
    assert "aborted" in result.stderr
    assert is_harmless(result.stderr.replace("\n", ""))


def test_the_training_display_shows_reasons_as_text(capsys):
    display = TrainingDisplay(Console(), RunConfig.of(dataset="digits", clients=3, rounds=1))
    display.round_done([make_record(clipped=None, refused={"2": HOSTILE}, aborted=f"[bold]{HOSTILE}")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(map(is_harmless, lines))
    assert lines[1].startswith("  client 2 sent nothing: \\x1b[2J")
    assert lines[2].startswith("  the model stays as it was: [bold]\\x1b[2J")


SCALES = Scales((1.0, 1.0), 2000)
ENCODING = UpdateEncoding(sizes=(640, 10), num_clients=4, value_bits=24, scales=SCALES)


def announcement(model: str, model_bytes: bytes) -> RoundAnnouncement:
    return RoundAnnouncement(
        round=1,
        rounds=1,
        model=model,
        image_shape=(1, 8, 8),
        num_classes=10,
        value_bits=24,
        scales=SCALES,
        training=Local(epochs=1, batch_size=8, learning_rate=0.1),
        model_bytes=model_bytes,
    )


GOOD_MODEL = model_to_bytes(build_model("logistic", image_shape=(1, 8, 8), num_classes=10, seed=0))


@pytest.mark.parametrize(
    ("announced", "said"),
    [
        (announcement("logistic", safetensors.torch.save({HOSTILE[:-3]: torch.zeros(650)})), "the model that came"),
        (announcement(f"os:{HOSTILE[:-3]}", GOOD_MODEL), "the model is os:"),
        (announcement("os:factory:", GOOD_MODEL), "the model is os:factory:"),
    ],
    ids=["tensor", "model", "emoji"],
)
def test_a_lying_server_writes_nothing_but_text_to_the_terminal(announced, said):
    params = secagg.plan(num_clients=4, vector_length=ENCODING.vector_length, value_bits=24).parameters
    extra = encode_announcement(announced)

    async def scenario():
        async with SessionServer(("127.0.0.1", 0), PLAINTEXT) as server:
            now = asyncio.get_running_loop().time()
            host = SessionHost(params, deadlines=Deadlines(advertise_keys=60), now=now, extra=extra, number=1)
            with RecoveryPool(1) as pool:
                serving = asyncio.create_task(server.run(host, pool))
                where = f"127.0.0.1:{server.addresses[0][1]}"
                client = await asyncio.create_subprocess_exec(
                    *command("join", where, "--plaintext", "--id", 0, "--shard", "0/30"),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    cwd=Path(__file__).parents[2],
                    env=environment(),
                )
                output, _ = await asyncio.wait_for(client.communicate(), 60)
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
                return client.returncode, output.decode().splitlines()

    code, lines = asyncio.run(scenario())
    assert code == 1
    assert all(map(is_harmless, lines))
    assert lines[0].startswith("client 0 with ")
    assert said in lines[-1]
