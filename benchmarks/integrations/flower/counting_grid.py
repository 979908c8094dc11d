"""A grid that counts what goes through it."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp import Grid


class CountingGrid(Grid):
    """Wraps Flower's grid; ``down`` and ``up`` are bytes of all messages' records."""

    def __init__(self, grid: Any) -> None:
        self._grid = grid
        self.down = 0
        self.up = 0

    @property
    def run(self) -> Any:
        """As the grid's."""
        return self._grid.run

    def set_run(self, run: Any) -> None:
        """As the grid's."""
        self._grid.set_run(run)

    def create_message(self, *arguments: Any, **options: Any) -> Any:
        """As the grid's."""
        return self._grid.create_message(*arguments, **options)

    def get_node_ids(self) -> Any:
        """As the grid's."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Any]) -> Any:
        """As the grid's, counted."""
        return self._grid.push_messages(self._sent(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        """As the grid's, counted."""
        return self._received(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """As the grid's, counted."""
        return self._received(self._grid.send_and_receive(self._sent(messages), timeout=timeout))

    def _sent(self, messages: Iterable[Message]) -> list[Message]:
        listed = list(messages)
        self.down += sum(_size(message.content) for message in listed)
        return listed

    def _received(self, messages: Iterable[Message]) -> list[Message]:
        listed = list(messages)
        self.up += sum(_size(message.content) for message in listed if message.has_content())
        return listed


def _size(content: RecordDict) -> int:
    """Array data as it is, everything else as Flower serializes it; its own count_bytes fails on empty lists."""
    others = RecordDict({name: record for name, record in content.items() if name not in content.array_records})
    data = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    return data + int(recorddict_to_proto(others).ByteSize())
