"""The node's state between two messages: the app's own records, and the protocol's, which the app never sees.

The protocol keeps the suspended client, and what the app made of its state in training.  The latter becomes the app's
state only when this node has answered the session to its end.  Otherwise a server could let the app learn in a session
that it never finishes, and read what was learnt out of the next one, among nodes that learnt nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from fl.integrations.flower._flwr import ConfigRecord, Context, RecordDict
from fl.integrations.flower.wire import CONTROL

_CLIENT = f"{CONTROL}.client"
_TRAINED = f"{CONTROL}.trained."


def take_session(context: Context) -> tuple[ConfigRecord | None, RecordDict]:
    """Take out the session that is open, if any, and the app's state after its training; its earlier one stays."""
    kept = _take(context)
    trained = {name.removeprefix(_TRAINED): record for name, record in kept.items() if name.startswith(_TRAINED)}
    client = kept.get(_CLIENT)
    return client if isinstance(client, ConfigRecord) else None, RecordDict(trained)


def keep_session(context: Context, session: ConfigRecord, trained: RecordDict) -> None:
    """Keep the session that is open, and the app's state after its training, beside the app's earlier one."""
    context.state[_CLIENT] = session
    for name, record in trained.items():
        context.state[_TRAINED + name] = record


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
    return name == _CLIENT or name.startswith(_TRAINED)
