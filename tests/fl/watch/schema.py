"""The log's lines against their schema."""

from __future__ import annotations

import json
import logging
from importlib.resources import files
from typing import Any

import jsonschema

from fl.watch.logs import JsonFormatter

SCHEMA = json.loads((files("fl.watch") / "events.schema.json").read_text())

_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def check(line: str) -> dict[str, Any]:
    """Return the record in a line; jsonschema.ValidationError if it does not match the schema."""
    record = json.loads(line)
    _VALIDATOR.validate(record)
    return record


def events_of(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    """Return the events among records, each checked as its written line."""
    formatter = JsonFormatter()
    lines = [check(formatter.format(record)) for record in records]
    return [line for line in lines if "event" in line]
