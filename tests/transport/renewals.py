"""Certificates that are renewed, or made as on another day; and the log lines about them."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from transport.certificates import authority
from transport.certificates.authority import Authority

NAMES = ["localhost", "127.0.0.1"]


@contextlib.contextmanager
def in_days(days: float):
    """Make certificates as on another day."""

    class Clock(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(UTC) + timedelta(days=days)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authority, "datetime", Clock)
        yield


def issue(folder: Path, *, days_from_now: float = 0.0, **what: Any) -> None:
    """Renew for a day that begins then; at -9 it is over."""
    with in_days(days_from_now):
        Authority(folder).issue(**{"days": 1.0, "renew": True} | what)


def warnings(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == event]
