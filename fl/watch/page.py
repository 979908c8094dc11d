"""The status page: its files, and the figures that it draws, as JSON."""

from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final

from fl.formatting import json_line
from fl.watch.figures import Snapshot

_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


def load_assets() -> dict[str, tuple[str, bytes]]:
    """Content type and bytes by path. They are few and read once: no request ever becomes a file's name."""
    folder = files("fl.watch") / "static"
    return {
        path: (f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8", (folder / name).read_bytes())
        for path, name in (("/", "status.html"), ("/status.css", "status.css"), ("/status.js", "status.js"))
    }


def status_json(snapshot: Snapshot) -> str:
    """Everything: what is live, and the rounds that are over."""
    return json_line(_live(snapshot) | {"rounds": _rounds(snapshot)})


def live_json(snapshot: Snapshot) -> str:
    """What changes all the time. The rounds travel apart, and only when one has ended."""
    return json_line(_live(snapshot))


def rounds_json(snapshot: Snapshot) -> str:
    """The rounds that are over, in order."""
    return json_line(_rounds(snapshot))


def _live(snapshot: Snapshot) -> dict[str, Any]:
    session = asdict(snapshot.session)
    totals = snapshot.totals
    return {
        "run": snapshot.run,
        "started": snapshot.started.isoformat(timespec="seconds"),
        "state": snapshot.state,
        "round": snapshot.round,
        "total_rounds": snapshot.total_rounds,
        "round_seconds": snapshot.round_seconds,
        "session": session,
        "accuracy": snapshot.accuracy,
        "loss": snapshot.loss,
        "recovery_seconds": snapshot.recovery_seconds,
        "open_connections": snapshot.open_connections,
        "waiting_clients": snapshot.waiting_clients,
        "totals": {
            "traffic": asdict(totals.traffic),
            "sessions": dict(totals.sessions),
            "drops": {reason: count for reason, count in totals.drops.items() if count},
            "aborts": {reason: count for reason, count in totals.aborts.items() if count},
            "refusals": dict(totals.refusals),
        },
    }


def _rounds(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [asdict(round_) for round_ in snapshot.rounds]
