"""The message and the context that the app gets: a lying server cannot use them to treat nodes differently.

If one client trains another model than the rest, or with other settings, the sum can show that client's update
(Pasquini et al., CCS 2022).  So the app gets a message and a context that are made here.  Each part of them is one of
three:

- bound into the session, so that nodes that were told different things share no masks: the message's type and records
  (`content_digest`), its group, and the run's id and configuration (`run_digest`);
- the same for all nodes: the rest of the message's metadata, the run's series, and the order of named entries;
- the node's own: its id, its configuration, its state, and the time.

A part that a new release of Flower adds does not reach the app until it is sorted into one of these
(test_extension_points.py).
"""

import copy
import time
from collections.abc import Mapping
from typing import Any

from fl.integrations.flower._flwr import ArrayRecord, ConfigRecord, Context, Message, Metadata, RecordDict
from fl.integrations.flower.app_state import own_state
from fl.integrations.flower.content import content_digest

# Seconds; the same as Flower's default.
_TTL = 43_200.0


def run_digest(run_id: int, group_id: str, run_config: Mapping[str, Any]) -> bytes:
    """Return SHA-256, 32 bytes, of the run's data that a node gets with the message; its order does not count."""
    run = {"run": ConfigRecord({"id": run_id, "group": group_id}), "config": ConfigRecord(dict(run_config))}
    return content_digest("run", RecordDict(run))


def view_of(message: Message, records: RecordDict, context: Context) -> tuple[Message, Context]:
    """Return the message and the context for the app; its state is a copy, so the node's own state stays.

    Args:
        message: the server's message.
        records: the app's own records in the message.
        context: the node's context.
    """
    metadata = Metadata(
        run_id=context.run_id,
        message_id="",
        src_node_id=0,
        dst_node_id=context.node_id,
        reply_to_message_id="",
        group_id=message.metadata.group_id,
        created_at=time.time(),
        ttl=_TTL,
        message_type=message.metadata.message_type,
    )
    own = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=copy.deepcopy(own_state(context.state)),
        run_config=dict(sorted(context.run_config.items())),
    )
    return Message(metadata=metadata, content=_in_one_order(records)), own


def _in_one_order(records: RecordDict) -> RecordDict:
    """Return the records and their entries sorted by name, except arrays, whose order is part of the digest."""
    return RecordDict(
        {
            name: record if isinstance(record, ArrayRecord) else type(record)(dict(sorted(record.items())))
            for name, record in sorted(records.items())
        }
    )
