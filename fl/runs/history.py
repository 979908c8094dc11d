"""A run's records as a sequence, and as a table for pandas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from fl.errors import ConfigError
from fl.runs.records import RoundRecord, record_to_json

if TYPE_CHECKING:
    import pandas

# Of these, each entry is a column: their names are few and the same in all rounds.
_SPREAD = ("dropped", "phases", "metrics", "train_metrics", "held_out_metrics", "stddevs")


class History(Sequence[RoundRecord]):
    """The records of a run's finished rounds, one `RoundRecord` for each.

    Args:
        records: all records, of the run and of the plain one beside it, in the order of the rounds.
        aggregator: the run's aggregator, whose records the sequence holds.
    """

    def __init__(self, records: Sequence[RoundRecord], aggregator: str) -> None:
        self._all = tuple(records)
        self._aggregator = aggregator
        self._own = tuple(record for record in self._all if record.aggregator == aggregator)

    @property
    def plain(self) -> History:
        """The rounds of the plain run that ``compare=True`` trains beside this one; empty without it."""
        return History([record for record in self._all if record.aggregator == "plain"], "plain")

    @overload
    def __getitem__(self, index: int) -> RoundRecord: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RoundRecord, ...]: ...

    def __getitem__(self, index: int | slice) -> RoundRecord | tuple[RoundRecord, ...]:
        return self._own[index]

    def __len__(self) -> int:
        return len(self._own)

    def __repr__(self) -> str:
        return f"<History of {len(self)} round{'' if len(self) == 1 else 's'}>"

    def to_frame(self) -> pandas.DataFrame:
        """Return a pandas table with one row for each round and aggregator.

        Its columns are the attributes of `RoundRecord`, as in ``metrics.jsonl``. ``dropped``, ``phases`` and metrics
        become one column for each of their entries, such as ``dropped.ShareKeys``, ``phases.Unmasking.server_seconds``
        and ``metrics.mae``.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_frame needs pandas: pip install pandas") from None
        frame = pandas.DataFrame([_row(record) for record in self._all])
        none_dropped = [name for name in frame.columns if name.startswith("dropped.")]
        return frame.fillna(dict.fromkeys(none_dropped, 0)).astype(dict.fromkeys(none_dropped, int))

    def save(self, path: str | Path) -> None:
        """Write `to_frame` as CSV."""
        try:
            self.to_frame().to_csv(path, index=False)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _row(record: RoundRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record_to_json(record).items():
        row.update(_flat(name, value) if name in _SPREAD else {name: value})
    return row


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {inner: one for key, part in value.items() for inner, one in _flat(f"{name}.{key}", part).items()}
