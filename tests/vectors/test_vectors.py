"""The committed vectors are the library's current output, and a second implementation computes the same."""

import ast
import copy
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg import (
    ClientDropped,
    ClientPhase,
    CodecError,
    DropReason,
    LocalProtocolError,
    RemoteProtocolError,
    Round,
    Rule,
    Send,
    decode_client_message,
    decode_server_message,
    encode,
)
from secagg.algebra.ring import word_dtype
from tests.vectors.generate.layout import parameters_from
from tests.vectors.generate.replay import client_before, server_before
from tests.vectors.reader import Mismatch, verify, verify_refusal
from tests.vectors.reader.primitives import CHECKS

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
FILES = sorted(path.name for path in FOLDER.glob("*.json"))
SESSIONS = [name for name in FILES if name.startswith("session_")]

MUTATIONS = 15
"""Number of digits to change in each file, one at a time."""


@cache
def load(name: str) -> dict[str, Any]:
    """Return a file's content, which must not be changed."""
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="ascii"))
    return content


NEGATIVE = load("negative.json")


def check(folder: Path) -> int:
    """Return the exit code of the generator's `--check` on a folder."""
    command = [sys.executable, "-m", "tests.vectors.generate", "--check", "--out", str(folder)]
    return subprocess.run(command, check=False, capture_output=True, cwd=ROOT).returncode  # noqa: S603 - our own tool


# --- The files -------------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_tool_writes_now():
    assert check(FOLDER) == 0


def test_the_check_finds_a_file_that_differs(tmp_path):
    for name in FILES:
        shutil.copy(FOLDER / name, tmp_path)
    with (tmp_path / "messages.json").open("a", encoding="ascii") as file:
        file.write("\n")
    assert check(tmp_path) == 1


def test_there_are_files_of_all_kinds_and_they_are_small():
    assert {"primitives.json", "messages.json", "negative.json"} < set(FILES)
    assert len(SESSIONS) == 6
    assert all((FOLDER / name).stat().st_size < 160_000 for name in FILES)


def test_every_message_type_is_there_in_every_mode():
    found = {(case["code"], case["parameters"]) for case in load("messages.json")["messages"]}
    for mode in ("complete", "sparse"):
        assert {(code, mode) for code in range(1, 8)} <= found
        assert {(code, f"{mode}_malicious") for code in range(1, 10)} <= found
    assert {(code, "complete_semi_malicious") for code in range(1, 10)} <= found
    assert {(code, "complete_noise") for code in range(1, 8)} <= found


# --- The second implementation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_reader_computes_the_same(name):
    assert verify(load(name)) > 0


def test_the_reader_checks_every_group_of_primitives():
    assert set(load("primitives.json")["groups"]) == set(CHECKS)


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """Return (level, module) of each import; level 1 is the package itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "eval", "exec", "importlib")


@pytest.mark.parametrize("path", sorted((FOLDER / "reader").glob("*.py")), ids=lambda path: path.name)
def test_the_reader_shares_no_code_with_the_library(path):
    own = {other.stem for other in path.parent.glob("*.py")}
    for level, module in imports_of(path.read_text(encoding="utf-8")):
        top = module.partition(".")[0]
        if level:
            assert level == 1
            assert top in own | {""}
        else:
            assert top == "cryptography" or (top in sys.stdlib_module_names and top != "importlib")


# --- Changed digits --------------------------------------------------------------------------------------------------

HEX = re.compile(r"(?:[0-9a-f]{2})+")

# Whether a key is accepted, or a signature is invalid, may stay the same with another digit.
INDIFFERENT = ("x25519_keys", "ed25519_keys")

Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Return the places of the hex strings."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("description", "fields", "version") or at:
                yield from places(item, (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*at, index))
    elif isinstance(value, str) and HEX.fullmatch(value):
        yield at


def changed(content: dict[str, Any], place: Place, rng: random.Random) -> dict[str, Any]:
    """Return the content with another digit in one of the hex strings."""
    content = copy.deepcopy(content)
    holder: Any = content
    for key in place[:-1]:
        holder = holder[key]
    text = holder[place[-1]]
    at = rng.randrange(len(text))
    digit = rng.choice([digit for digit in "0123456789abcdef" if digit != text[at]])
    holder[place[-1]] = text[:at] + digit + text[at + 1 :]
    return content


def units_of(name: str) -> list[dict[str, Any]]:
    """Return a file in parts that can be checked separately."""
    content = load(name)
    if name != "primitives.json":
        return [content]
    return [
        {**content, "groups": {group: {**described, "cases": [case]}}}
        for group, described in content["groups"].items()
        for case in described["cases"]
        if group not in INDIFFERENT and case.get("valid", True) and any(places(case))
    ]


def refuses(content: dict[str, Any]) -> bool:
    """Return whether the reader finds a fault."""
    try:
        verify(content)
    except Mismatch:
        return True
    return False


@pytest.mark.parametrize("name", [name for name in FILES if name != "negative.json"])
def test_the_reader_notices_a_changed_digit(name):
    rng = random.Random(f"mutations of {name}")
    units = units_of(name)
    for _ in range(MUTATIONS * (4 if len(units) > 1 else 1)):
        unit = rng.choice(units)
        place = rng.choice(list(places(unit)))
        assert refuses(changed(unit, place, rng)), f"a digit was changed at {place}, and nothing was noticed"


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("field", ["sum", "masked_sum", "survivors"])
def test_the_reader_notices_another_result(name, field):
    content = copy.deepcopy(load(name))
    content["outcome"][field][0] ^= 1
    with pytest.raises(Mismatch):
        verify(content)


@pytest.mark.parametrize("name", SESSIONS)
def test_the_reader_notices_another_decision(name):
    content = copy.deepcopy(load(name))
    drops = [drop for step in content["steps"] for drop in step.get("dropped", ())]
    drops[0]["reason"] = "MALFORMED"
    with pytest.raises(Mismatch):
        verify(content)


@pytest.mark.parametrize("name", SESSIONS)
def test_partial_sums_stand_for_the_inputs_in_them(name):
    session = load(name)
    params = parameters_from(session["parameters"])
    server = server_before(session, 0)
    partials = session["outcome"]["partial_sums"]
    closed = False
    for entry in session["steps"]:
        if entry["kind"] == "close_round":
            if entry["round"] == Round.MASKED_INPUT_COLLECTION.value:
                for partial in partials:
                    vector = np.array(partial["sum"], dtype=word_dtype(params.ring_bits))
                    server.receive_partial(partial["client_ids"], vector)
            sent = {event.to: event.message for event in server.close_round() if isinstance(event, Send)}
            closed = entry["round"] == Round.MASKED_INPUT_COLLECTION.value or closed
        elif entry["to"] != "server":
            assert encode(sent[entry["to"]], params).hex() == entry["message"]
        elif entry["type"] != "MaskedInput":
            server.receive(entry["from"], decode_client_message(bytes.fromhex(entry["message"]), params))
    assert closed


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", NEGATIVE["bytes"], ids=lambda case: case["reason"])
def test_bytes_are_refused(case):
    decode = decode_client_message if case["from"] == "client" else decode_server_message
    params = parameters_from(NEGATIVE["parameter_sets"][case["parameters"]])
    with pytest.raises(CodecError) as refusal:
        decode(bytes.fromhex(case["bytes"]), params)
    assert type(refusal.value).__name__ == case["error"]
    assert str(refusal.value) == case["library_says"]


def named(case: dict[str, Any]) -> str:
    return f"{case['session'].removesuffix('.json')}-{case.get('rule') or case['drop_reason']}-{case['reason']}"


@pytest.mark.parametrize("case", NEGATIVE["refused_by_clients"], ids=named)
def test_a_client_refuses(case):
    session = load(case["session"])
    client = client_before(session, case["client_id"], case["before_step"])
    message = decode_server_message(bytes.fromhex(case["message"]), client.params)
    with pytest.raises(RemoteProtocolError) as refusal:
        client.receive(message)
    assert type(refusal.value).__name__ == case["error"]
    assert (refusal.value.rule.name, list(refusal.value.culprits)) == (case["rule"], case["culprits"])
    assert client.phase is ClientPhase.ABORTED
    with pytest.raises(LocalProtocolError):
        client.receive(message)


@pytest.mark.parametrize("case", NEGATIVE["refused_by_clients"], ids=named)
def test_the_readers_client_refuses_by_the_same_rule(case):
    verify_refusal(case, load(case["session"]))


@pytest.mark.parametrize("case", NEGATIVE["refused_by_servers"], ids=named)
def test_a_server_continues_without_the_client(case):
    server = server_before(load(case["session"]), case["before_step"])
    phase, client_id = server.phase, case["client_id"]
    message = decode_client_message(bytes.fromhex(case["message"]), server.params)
    (dropped,) = server.receive(client_id, message)
    assert isinstance(dropped, ClientDropped)
    assert (dropped.client_id, dropped.reason.name, dropped.round) == (client_id, case["drop_reason"], server.round)
    assert server.phase is phase
    assert client_id not in server.pending


def test_every_rule_and_reason_is_covered_or_out_of_reach():
    rules = {case["rule"] for case in NEGATIVE["refused_by_clients"]}
    reasons = {case["drop_reason"] for case in NEGATIVE["refused_by_servers"]}
    out_of_reach = NEGATIVE["out_of_reach"]
    assert rules.isdisjoint(out_of_reach["rules"])
    assert rules | out_of_reach["rules"].keys() == {rule.name for rule in Rule}
    assert reasons.isdisjoint(out_of_reach["drop_reasons"])
    assert reasons | out_of_reach["drop_reasons"].keys() == {reason.name for reason in DropReason}


def test_decisions_when_a_round_closes_are_in_the_sessions():
    found = {drop["reason"] for name in SESSIONS for step in load(name)["steps"] for drop in step.get("dropped", ())}
    assert found == {"DEADLINE", "TOO_FEW_NEIGHBORS"}
