"""Errors of the reader."""

from collections.abc import Sequence
from typing import Any


class Mismatch(Exception):  # noqa: N818 - the vector is wrong, or the reader
    """A vector differs from the result of this implementation."""


class Malformed(Exception):  # noqa: N818
    """The bytes are not a message."""


class Refused(Exception):  # noqa: N818
    """The message breaks a rule of the client."""

    def __init__(self, rule: str, culprits: Sequence[int] = ()) -> None:
        super().__init__(rule, list(culprits))
        self.rule, self.culprits = rule, list(culprits)


def refuse_if(broken: bool | Sequence[int], rule: str) -> None:
    """Raise Refused if the rule is broken; a list holds the clients that broke it."""
    if broken:
        raise Refused(rule, () if broken is True else list(broken))


def expect(what: str, found: Any, computed: Any) -> None:
    """Raise Mismatch unless both are equal."""
    if found != computed:
        raise Mismatch(f"{what}: {found!r} in the vector, {computed!r} computed")
