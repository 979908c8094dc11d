"""Keep what a run has spent of its privacy budget in a file that outlives crashes.

A round is charged before its clients are asked for their updates, and the file is on disk before `charge` returns.  So
at any moment, also after kill -9 or a loss of power, the file counts every round of which anything can have left a
client.

**Aborted rounds cost the same.**  The server can have seen the sum before it declared the round aborted; and a round
that is tried again is a second release, since clients draw new noise each time.  Nothing is ever paid back.  The
ledger counts attempts: a round that a crash interrupted and that is repeated costs twice.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fl.errors import ConfigError, FLError
from fl.files import replace_file
from fl.formatting import json_line
from fl.privacy.accounting import ORDERS, Divergences, Release, epsilon_of
from fl.privacy.mechanism import Noise

LEDGER = "privacy.json"
"""The name of a ledger's file."""

_FORMAT = 1
# A plan's last round spends exactly its budget, and sums of floats in another order differ in their last digits.
_ROUNDING = 1 + 1e-12
_MOST_CHARGES = 10**6


class EpsilonSpentError(FLError):
    """A round would spend more than the budget; nothing of it may be released."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One attempt at a round, and what it may have given away."""

    round: int
    release: Release


class Ledger:
    """The charges of a run, and the file that holds them; see `Ledger.create` and `Ledger.load`.

    The file must be written by one process at a time: hold the run's folder. Without a path nothing outlives the
    program.
    """

    def __init__(
        self, path: Path | None, epsilon: float, delta: float, charges: Sequence[Charge] = (), session: str = ""
    ) -> None:
        self.path = path
        self.epsilon = epsilon
        self.delta = delta
        self._charges = list(charges)
        # The digest of the session of the last charge, if it was named.
        self._session = session

    @classmethod
    def create(cls, path: Path, *, epsilon: float, delta: float, charges: Sequence[Charge] = ()) -> "Ledger":
        """Return the ledger of a run that had none on disk, written to ``path``.

        One without charges, as a start that was cut off leaves behind, is replaced.

        Raises:
            ConfigError: there is a ledger already, or it cannot be written.
        """
        if path.exists() and cls.load(path).charges:
            raise ConfigError(f"{path} exists: what it says was spent would be forgotten; choose another folder")
        ledger = cls(path, epsilon, delta, charges)
        ledger._write(charges, "")
        return ledger

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """Return the ledger that is stored at ``path``.

        Raises:
            ConfigError: there is none, or it cannot be read. Then nobody knows what was spent, and the run must end.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != _FORMAT:
                raise ConfigError(f"{path} is a ledger of format {stored['format']}; this version knows {_FORMAT}")
            if sum(count for _, count, _ in stored["charges"]) > _MOST_CHARGES:
                raise ConfigError(f"{path} has more than {_MOST_CHARGES} charges")
            releases = [Release(**{**one, "noise": Noise(one["noise"])}) for one in stored["releases"]]
            charges = [
                Charge(first + i, releases[place]) for first, count, place in stored["charges"] for i in range(count)
            ]
            session = str(stored.get("session", ""))
            ledger = cls(path, float(stored["epsilon"]), float(stored["delta"]), charges, session)
            if not (ledger.epsilon > 0 and 0 < ledger.delta < 1 and np.isfinite(ledger.spent)):
                raise ConfigError(f"{path} has impossible numbers")
        except (OSError, ValueError, KeyError, TypeError, IndexError, ArithmeticError) as error:
            raise ConfigError(
                f"cannot read the privacy ledger {path}: {error}; without it nobody knows what was spent, so nothing "
                "more may be released: restore the file"
            ) from error
        return ledger

    @classmethod
    def open(cls, path: Path, *, epsilon: float, delta: float) -> "Ledger":
        """Return the ledger of a client, with its present limits; a new one if there is no file.

        Raises:
            ConfigError: as for `load`, or the file or its folder cannot be written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
        if not path.exists():
            return cls.create(path, epsilon=epsilon, delta=delta)
        stored = cls.load(path)
        ledger = cls(path, epsilon, delta, stored.charges, stored._session)
        ledger._write(stored.charges, stored._session)
        return ledger

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Return all charges, in their order."""
        return tuple(self._charges)

    @property
    def spent(self) -> float:
        """Return the epsilon of all charges together, at the ledger's delta; 0 without any."""
        return self._after(self._charges)

    def spent_by_charge(self) -> list[float]:
        """Return the epsilon after each charge."""
        counts: Counter[Release] = Counter()
        spent = []
        for charge in self._charges:
            counts[charge.release] += 1
            spent.append(epsilon_of(_composed(counts), self.delta))
        return spent

    def allows(self, release: Release) -> bool:
        """Return whether another round with this release keeps the budget."""
        return self._after([*self._charges, Charge(0, release)]) <= self.epsilon * _ROUNDING

    def is_charged(self, session: bytes, release: Release) -> bool:
        """Return whether the last charge was for the session of this name, and for all that this release gives away.

        A client that is started again with other assumptions may count less noise for the session that goes on.
        """
        last = [charge.release for charge in self._charges[-1:]]
        return bool(session) and self._session == _named(session) and last == [release]

    def charge(self, round_number: int, release: Release, *, session: bytes = b"") -> float:
        """Write that a round is about to be released, and return the epsilon that is then spent.

        Call it before any client is asked for its update, and once for each attempt.

        Args:
            round_number: the round's number.
            release: what the round gives away.
            session: a name of the session; the last one that was charged is not charged again for the same release.

        Raises:
            EpsilonSpentError: the round would exceed the budget; nothing is charged.
            ConfigError: the file cannot be written; nothing may be released.
        """
        if self.is_charged(session, release):
            return self.spent
        charges = [*self._charges, Charge(round_number, release)]
        spent = self._after(charges)
        if spent > self.epsilon * _ROUNDING:
            raise EpsilonSpentError(
                f"round {round_number} would bring epsilon to {spent:.4g} at delta {self.delta:g}, above the budget of "
                f"{self.epsilon:g}: the run ends here"
            )
        name = _named(session) if session else ""
        self._write(charges, name)
        self._charges, self._session = charges, name
        return spent

    def _after(self, charges: Sequence[Charge]) -> float:
        counts = Counter(charge.release for charge in charges)
        return epsilon_of(_composed(counts), self.delta) if counts else 0.0

    def _write(self, charges: Sequence[Charge], session: str) -> None:
        """Replace the file in one step, and wait until it and its name are on disk."""
        if self.path is None:
            return
        releases = list(dict.fromkeys(charge.release for charge in charges))
        places = {release: place for place, release in enumerate(releases)}
        runs: list[list[int]] = []
        for charge in charges:
            place = places[charge.release]
            if runs and runs[-1][2] == place and charge.round == runs[-1][0] + runs[-1][1]:
                runs[-1][1] += 1
            else:
                runs.append([charge.round, 1, place])
        stored: dict[str, Any] = {
            "format": _FORMAT,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "spent": self._after(charges),
            "releases": [{**asdict(release), "noise": release.noise.value} for release in releases],
            "charges": runs,
            "session": session,
        }
        try:
            replace_file(self.path, (json_line(stored) + "\n").encode())
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ConfigError(f"cannot write the privacy ledger {self.path}: {error.strerror or error}") from error


def _named(session: bytes) -> str:
    return hashlib.sha256(session).hexdigest()


def _composed(counts: Counter[Release]) -> Divergences:
    total = np.zeros(len(ORDERS))
    for release, count in counts.items():
        total += count * _divergences(release)
    return total


@lru_cache(maxsize=1024)
def _divergences(release: Release) -> Divergences:
    return release.divergences()
