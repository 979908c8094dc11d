"""Counts over many sessions."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum


class Lie(Enum):
    """Kinds of false statements of a server, and of its forbidden requests."""

    OTHER_NEIGHBORS = "lists of keys that differ"
    LEFT_OUT = "a client left out of a list of keys"
    MADE_KEYS = "keys that the server made"
    OLD_KEYS = "keys of an earlier run in the same session"
    FOREIGN_KEYS = "keys of another session"
    FALSE_SHARERS = "lists of who shared keys that differ"
    WRONG_SHARES = "shares that are made up or another's"
    FALSE_SURVIVORS = "lists of survivors that differ"
    OTHER_VIEWS = "signatures of views that do not fit"
    OLD_SIGNATURES = "signatures of an earlier run"
    FORGED_SIGNATURES = "signatures that are made up, or exchanged"
    SCRAMBLED_VIEWS = "views with members hidden or moved"
    SAME_NONCE = "a second run in one session asked for"
    REPEATED_ROUND = "a round opened again"
    OTHER_MODEL = "another model for some"
    OTHER_PARAMETERS = "other parameters for some"
    OTHER_SESSION = "a message of another session, as it was"
    DISGUISED = "a message of another session, under this one's id"
    ANOTHERS = "another client's message"
    OUT_OF_ORDER = "a message of another round"
    BAD_BYTES = "bytes that were changed"
    TWICE = "the same message twice"
    SECOND_REQUEST = "a second, different request"
    OTHER_OFFER = "another offer in the middle of a session"
    OTHER_SETTINGS = "other settings of the run for some"
    OTHER_CONTENT = "another model than was announced"
    OTHER_NUMBER = "a client in another's place"
    AT_ONCE = "two requests at once"
    TWO_AT_ONCE = "a session left open while others are played"


OF_FRAMEWORKS = frozenset({Lie.OTHER_SETTINGS, Lie.OTHER_CONTENT, Lie.OTHER_NUMBER, Lie.AT_ONCE})
"""Lies that only some frameworks allow."""


@dataclass
class Figures:
    """The figures of a campaign; those that must be 0 are in `broken`."""

    sessions: Counter[str] = field(default_factory=Counter)
    completed: Counter[str] = field(default_factory=Counter)
    aborted: Counter[str] = field(default_factory=Counter)
    lies: Counter[Lie] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    smallest: dict[tuple[str, int], int] = field(default_factory=dict)
    """The smallest number of inputs in a sum, by kind of session and the smallest number that is allowed."""
    wrong_sums: list[str] = field(default_factory=list)
    double_reveals: list[str] = field(default_factory=list)
    small_sums: list[str] = field(default_factory=list)
    mixed_sums: list[str] = field(default_factory=list)
    second_answers: list[str] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, list[str]]:
        """Return each session in which something forbidden happened."""
        return {
            "wrong sums": self.wrong_sums,
            "double reveals": self.double_reveals,
            "sums of too few": self.small_sums,
            "sums over different models": self.mixed_sums,
            "second answers": self.second_answers,
        }

    def untold(self, but: Collection[Lie] = ()) -> set[Lie]:
        """Return the lies that were never told."""
        return {lie for lie in Lie if not self.lies[lie]} - set(but)

    @property
    def is_clean(self) -> bool:
        return not any(self.broken.values())

    def note_sum(self, kind: str, clients: int, least: int) -> None:
        """Record a sum that the server learned."""
        self.events["sums learned"] += 1
        self.smallest[kind, least] = min(clients, self.smallest.get((kind, least), clients))

    def __str__(self) -> str:
        """Return a table for people."""
        lines = [f"{sum(self.sessions.values())} sessions, {sum(self.lies.values())} lies"]
        lines += [f"  {name:46} {count:7}" for name, count in sorted(self.sessions.items())]
        lines += [f"  completed exactly: {name:27} {count:7}" for name, count in sorted(self.completed.items())]
        lines += [f"  aborted: {name:37} {count:7}" for name, count in sorted(self.aborted.items())]
        lines += ["lies"] + [f"  {lie.value:46} {self.lies[lie]:7}" for lie in Lie if self.lies[lie]]
        lines += ["refused by rule"] + [f"  {rule:46} {count:7}" for rule, count in self.refused.most_common()]
        lines += ["also"] + [f"  {name:46} {count:7}" for name, count in sorted(self.events.items())]
        lines += [
            f"  smallest sum learned: {kind}, bound {least:<8} {clients:7}"
            for (kind, least), clients in sorted(self.smallest.items())
        ]
        lines += [f"{name:48} {len(found):7}" for name, found in self.broken.items()]
        return "\n".join(lines)
