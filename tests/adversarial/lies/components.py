"""The connected components of the graph that unknown masks make."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import TypeVar

Run = TypeVar("Run", bound=Hashable)


def components(unknown: dict[Run, set[Hashable]]) -> Iterator[set[Run]]:
    """Return the sets of runs that unknown masks join."""
    ends: defaultdict[Hashable, list[Run]] = defaultdict(list)
    for run, edges in unknown.items():
        for edge in edges:
            ends[edge].append(run)
    left = dict.fromkeys(unknown)
    while left:
        start, _ = left.popitem()
        component, pending = {start}, [start]
        while pending:
            for edge in unknown[pending.pop()]:
                for run in ends[edge]:
                    if run in left:
                        del left[run]
                        component.add(run)
                        pending.append(run)
        yield component
