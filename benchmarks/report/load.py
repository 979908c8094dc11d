"""Reading a results file, which may have been written by another version or by hand."""

import json
from pathlib import Path

from benchmarks import results
from benchmarks.report.errors import ReportError
from benchmarks.results import Document, Entry

# What the report needs of the entries that it draws or tabulates by name, besides what all entries have.
_PEER = ("peer", "peer_version", "work", "peer_seconds", "secagg_seconds", "ratio")
_POINT = (
    "degree",
    "ring_bits",
    "included",
    "exact",
    "client_seconds",
    "server_seconds",
    "client_bytes_up",
    "client_bytes_down",
    "peak_rss_bytes",
    "ratio",
)
_NEEDED: dict[str, dict[str, tuple[str, ...]]] = {
    "peers": {"flower_round": _PEER, "declearn_masking": _PEER, "declearn_agreement_and_masking": _PEER},
    "scaling": {"clients": _POINT, "length": _POINT, "degree": ("curve",)},
    "figure8": {"client": ("milliseconds",), "server": ("milliseconds",)},
}

_HEAD = ("mode", "created", "version", "commit", "machine", "results", "skipped")


def load(path: Path) -> Document:
    """The document in ``path``; ReportError if it is not one that a report can be made of."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"there is no results file {path}: run `make bench` or `make bench-quick` first") from None
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # not UTF-8, or not JSON
        raise ReportError(f"{path} is no JSON file") from None
    return checked(document, str(path))


def checked(document: object, name: str) -> Document:
    """The document, if it has the form that `benchmarks.results` describes."""
    if not isinstance(document, dict) or "format" not in document:
        raise ReportError(f"{name} is no results file")
    if document["format"] != results.FORMAT:
        raise ReportError(f"{name} is of format {document['format']!r}, but this report reads {results.FORMAT}")
    if missing := [key for key in _HEAD if key not in document]:
        raise ReportError(f"{name} lacks {', '.join(missing)}")
    if not isinstance(document["results"], list) or not isinstance(document["machine"], dict):
        raise ReportError(f"{name} is no results file")
    if not document["results"]:
        raise ReportError(f"{name} holds no results")
    for entry in document["results"]:
        try:
            results.checked(entry)
        except (AttributeError, TypeError, ValueError) as error:
            raise ReportError(f"{name} holds a broken entry: {error}") from None
        needed = _NEEDED.get(entry["group"], {}).get(entry["name"], ())
        if missing := [key for key in needed if key not in entry]:
            raise ReportError(f"{name}: {entry['group']}/{entry['name']} lacks {', '.join(missing)}")
    return document


def of_group(document: Document, group: str) -> list[Entry]:
    """A group's entries, in the file's order."""
    return [entry for entry in document["results"] if entry["group"] == group]


def named(document: Document, group: str, *names: str) -> list[Entry]:
    """Those of a group's entries that have one of the names."""
    return [entry for entry in of_group(document, group) if entry["name"] in names]


def points(document: Document, name: str) -> list[Entry]:
    """The entries of a scaling curve, in the order of its axis, however runs were merged."""
    return sorted(named(document, "scaling", name), key=by_size)


def by_size(entry: Entry) -> tuple[int, int]:
    """A scaling point's place: by clients, then by the vector's length."""
    return entry["params"]["clients"], entry["params"]["length"]
