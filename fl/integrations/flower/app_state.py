"""The node's state between two messages: the app's records, and the protocol's, which the app never sees.

The protocol stores the suspended client, and the app's state after training.  The latter becomes the app's state only
when this node has answered the session to its end.  Otherwise a server could let the app train in a session that never
finishes, and then learn the result from the next session, in which the other nodes did not train before.

A session that measures asks only for the size of the app's reply; the next session asks for the reply itself.  In
between the reply waits here, for a session that asks the app for exactly the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fl.integrations.flower._flwr import ConfigRecord, Context, RecordDict
from fl.integrations.flower.wire import CONTROL

_CLIENT = f"{CONTROL}.client"
_TRAINED = f"{CONTROL}.trained."
_REPLY = f"{CONTROL}.reply."


@dataclass(slots=True)
class Trained:
    """The result of one training.

    Attributes:
        state: the app's state after the training; empty if nothing was trained yet.
        reply: the app's reply, if a later session will take it; otherwise empty.
    """

    state: RecordDict = field(default_factory=RecordDict)
    reply: RecordDict = field(default_factory=RecordDict)


def take_session(context: Context) -> tuple[ConfigRecord | None, Trained]:
    """Remove and return the last open session, if any, and its training's result; the app's own state stays."""
    kept = _take(context)
    client = kept.get(_CLIENT)
    return client if isinstance(client, ConfigRecord) else None, Trained(_part(kept, _TRAINED), _part(kept, _REPLY))


def keep_session(context: Context, session: ConfigRecord, trained: Trained) -> None:
    """Store a session, and its training's result, next to the app's earlier state."""
    context.state[_CLIENT] = session
    for prefix, records in ((_TRAINED, trained.state), (_REPLY, trained.reply)):
        for name, record in records.items():
            context.state[prefix + name] = record


def install(context: Context, trained: RecordDict) -> None:
    """Make ``trained`` the app's state: this node has answered the session."""
    context.state = RecordDict({name: record for name, record in trained.items() if not _is_protocols(name)})


@contextmanager
def without_session(context: Context) -> Iterator[None]:
    """Hide the open session from the app, which may change, replace or keep its own state meanwhile."""
    kept = _take(context)
    try:
        yield
    finally:
        install(context, context.state)
        context.state.update(kept)


def _take(context: Context) -> RecordDict:
    kept = RecordDict({name: record for name, record in context.state.items() if _is_protocols(name)})
    install(context, context.state)
    return kept


def _is_protocols(name: str) -> bool:
    return name == _CLIENT or name.startswith((_TRAINED, _REPLY))


def _part(kept: RecordDict, prefix: str) -> RecordDict:
    return RecordDict({name.removeprefix(prefix): record for name, record in kept.items() if name.startswith(prefix)})
