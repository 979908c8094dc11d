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
    """The record in a line; jsonschema.ValidationError if it is not as the schema says."""
    record = json.loads(line)
    _VALIDATOR.validate(record)
    return record


def events_of(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    """The events among records, each checked as the line that is written of it."""
    formatter = JsonFormatter()
    lines = [check(formatter.format(record)) for record in records]
    return [line for line in lines if "event" in line]
