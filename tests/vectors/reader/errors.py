"""What the reader raises."""

from collections.abc import Sequence
from typing import Any


class Mismatch(Exception):  # noqa: N818 - the vector is wrong, or the reader
    """A vector is not what this implementation computes."""


class Malformed(Exception):  # noqa: N818
    """Bytes that are no message."""


class Refused(Exception):  # noqa: N818
    """A message that breaks a rule of the client's."""

    def __init__(self, rule: str, culprits: Sequence[int] = ()) -> None:
        super().__init__(rule, list(culprits))
        self.rule, self.culprits = rule, list(culprits)


def refuse_if(broken: bool | Sequence[int], rule: str) -> None:
    """Refused if the rule is broken; a list is of those who broke it."""
    if broken:
        raise Refused(rule, () if broken is True else list(broken))


def expect(what: str, found: Any, computed: Any) -> None:
    """Mismatch unless both are equal."""
    if found != computed:
        raise Mismatch(f"{what}: {found!r} in the vector, {computed!r} computed")
