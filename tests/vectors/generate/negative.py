"""negative.json: invalid bytes, and messages that a machine in a given state refuses."""

from typing import Any

from .layout import document, parameters_of
from .messages import PARAMETER_SETS
from .negative_bytes import bad_bytes
from .negative_clients import refused_by_clients
from .negative_servers import refused_by_servers
from .replay import SessionFile

FIELDS = {
    "bytes": "what must be refused by the decoder of that direction, whatever the state; from: who sent it",
    "bytes.reason": "the one thing that is wrong with it; library_says: this library's words, not part of the protocol",
    "refused_by_clients": "the client has seen all steps of that session below before_step; it refuses the message, "
    "naming the rule (Rule) and the culprits, answers nothing, and takes no part any more",
    "refused_by_servers": "the server has seen all steps below before_step; it goes on without the client",
    "out_of_reach": "rules and reasons that no well-formed message of a client or server brings about, and why",
}

_OUT_OF_REACH = {
    "rules": {
        "IDS_NOT_ASCENDING": "the decoder refuses such a list; see bytes",
        "TOO_MANY_PEERS": "the decoder refuses a list of more than degree + 1 clients; see bytes",
    },
    "drop_reasons": {
        "DISCONNECTED": "the server's host says so",
        "DEADLINE": "a round was closed without this client; in every session file",
        "MALFORMED": "the server's host says so, of bytes that are no message; see bytes",
        "TOO_FEW_NEIGHBORS": "the server decides so when a round closes; in session_sparse_lonely.json",
    },
}


def build_negative(sessions: dict[str, SessionFile]) -> dict[str, Any]:
    """Return the file; ``sessions`` are the session files by name."""
    return document(
        "What must be refused.",
        FIELDS,
        parameter_sets={name: parameters_of(params) for name, params in PARAMETER_SETS.items()},
        bytes=bad_bytes(),
        refused_by_clients=refused_by_clients(sessions),
        refused_by_servers=refused_by_servers(sessions),
        out_of_reach=_OUT_OF_REACH,
    )
