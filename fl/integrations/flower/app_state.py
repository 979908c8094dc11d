"""The node's state between two messages: the app's own records, and the protocol's, which the app never sees.

The protocol keeps the suspended client, and what the app made of its state in training.  The latter becomes the app's
state only when this node has answered the session to its end.  Otherwise a server could let the app learn in a session
that it never finishes, and read what was learnt out of the next one, among nodes that learnt nothing.

A session that measures says how large the app's reply is, and the next one takes the reply itself.  Between the two it
waits here, for a session that asks the app the very same.
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
    """What came of a training.

    Attributes:
        state: the app's state after it; empty before there was one.
        reply: what the app replied, where a later session is to have it; empty else.
    """

    state: RecordDict = field(default_factory=RecordDict)
    reply: RecordDict = field(default_factory=RecordDict)


def take_session(context: Context) -> tuple[ConfigRecord | None, Trained]:
    """Take out the session that was open last, if any, and what came of its training; the app's own state stays."""
    kept = _take(context)
    client = kept.get(_CLIENT)
    return client if isinstance(client, ConfigRecord) else None, Trained(_part(kept, _TRAINED), _part(kept, _REPLY))


def keep_session(context: Context, session: ConfigRecord, trained: Trained) -> None:
    """Keep a session, and what came of its training, beside the app's earlier state."""
    context.state[_CLIENT] = session
    for prefix, records in ((_TRAINED, trained.state), (_REPLY, trained.reply)):
        for name, record in records.items():
            context.state[prefix + name] = record


def install(context: Context, trained: RecordDict) -> None:
    """Make ``trained`` the app's state: this node has answered the session."""
    context.state = RecordDict({name: record for name, record in trained.items() if not _is_protocols(name)})


@contextmanager
def without_session(context: Context) -> Iterator[None]:
    """Hide the session that is open from the app, which may change, exchange or leave its own state meanwhile."""
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
