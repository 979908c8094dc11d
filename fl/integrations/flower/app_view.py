"""What reaches the app, and with it the training: nothing in which a server that lies can tell nodes apart.

Clients that train other models, or by other settings, than the rest turn the sum into their own update (Pasquini et
al., CCS 2022).  So the app is handed a message and a context made here, every part of which is one of three:

- bound into the session, so that nodes that were told different things share no masks: the message's type and records
  (`content_digest`), its group, and the run's id and configuration (`run_digest`);
- the same for every node: what else the message's metadata says, the run's series, and the order of named things;
- the node's own: its id, its configuration, its state, and the time.

A part that a release of Flower adds is none of these until somebody has looked at it: test_extension_points.py.
"""

import copy
import time
from collections.abc import Mapping
from typing import Any

from fl.integrations.flower._flwr import ArrayRecord, ConfigRecord, Context, Message, Metadata, RecordDict
from fl.integrations.flower.content import content_digest

# Seconds, as Flower's own default.
_TTL = 43_200.0


def run_digest(run_id: int, group_id: str, run_config: Mapping[str, Any]) -> bytes:
    """SHA-256, 32 bytes, over what a node is told beside the message's type and records; its order does not count."""
    run = {"run": ConfigRecord({"id": run_id, "group": group_id}), "config": ConfigRecord(dict(run_config))}
    return content_digest("run", RecordDict(run))


def view_of(message: Message, records: RecordDict, context: Context) -> tuple[Message, Context]:
    """The message and the context that the app is handed; its state is a copy, which
    leaves the node's as it is.

    Args:
        message: what the server sent.
        records: the app's own records in it.
        context: the node's.
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
        state=copy.deepcopy(context.state),
        run_config=dict(sorted(context.run_config.items())),
    )
    return Message(metadata=metadata, content=_in_one_order(records)), own


def _in_one_order(records: RecordDict) -> RecordDict:
    """The records by name, and so their entries, but for arrays, whose order is bound."""
    return RecordDict(
        {
            name: record if isinstance(record, ArrayRecord) else type(record)(dict(sorted(record.items())))
            for name, record in sorted(records.items())
        }
    )
