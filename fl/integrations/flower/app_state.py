"""The node's state between two messages: the app's records, and the protocol's, which the app never sees.

The protocol stores the suspended client, and the app's state after training.  The latter becomes the app's state only
when this node has answered the session to its end.  Otherwise a server could let the app train in a session that never
finishes, and then learn the result from the next session, in which the other nodes did not train before.

The layouts of the app's replies stay for all sessions of the run, so that a client whose training fails can send an
input that looks like the others' and counts nothing.

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
_LAYOUTS = f"{CONTROL}.layouts"


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
    """Remove and return the last open session, if any, and its training's result.

    The app's own state stays, and so do the layouts of its replies.
    """
    kept = _take(context)
    if _LAYOUTS in kept:
        context.state[_LAYOUTS] = kept[_LAYOUTS]
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
    layouts = context.state.get(_LAYOUTS)
    context.state = own_state(trained)
    if layouts is not None:
        context.state[_LAYOUTS] = layouts


def own_state(state: RecordDict) -> RecordDict:
    """Return the app's own records."""
    return RecordDict({name: record for name, record in state.items() if not _is_protocols(name)})


def layout_before(context: Context, message_type: str) -> bytes | None:
    """Return the layout of the app's last reply to a message of this type in this run; None before the first."""
    layouts = context.state.get(_LAYOUTS)
    layout = layouts.get(message_type) if isinstance(layouts, ConfigRecord) else None
    return layout if isinstance(layout, bytes) else None


def keep_layout(context: Context, message_type: str, layout: bytes) -> None:
    """Store the layout of the app's reply to a message of this type."""
    layouts = context.state.get(_LAYOUTS)
    context.state[_LAYOUTS] = ConfigRecord({**(layouts or {}), message_type: layout})


@contextmanager
def without_session(context: Context) -> Iterator[None]:
    """Hide the open session from the app, which may change, replace or keep its own state meanwhile."""
    kept = _take(context)
    try:
        yield
    finally:
        context.state = own_state(context.state)
        context.state.update(kept)


def _take(context: Context) -> RecordDict:
    kept = RecordDict({name: record for name, record in context.state.items() if _is_protocols(name)})
    context.state = own_state(context.state)
    return kept


def _is_protocols(name: str) -> bool:
    return name in (_CLIENT, _LAYOUTS) or name.startswith((_TRAINED, _REPLY))


def _part(kept: RecordDict, prefix: str) -> RecordDict:
    return RecordDict({name.removeprefix(prefix): record for name, record in kept.items() if name.startswith(prefix)})
